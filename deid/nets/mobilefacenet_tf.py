"""MobileFaceNet (Chen et al. 2018) as sirius-ai/MobileFaceNet_TF trains it: 192-D, 112 px.

The plan of `mobilefacenet.py` with PReLU, TensorFlow's padding, and batch norms that are in the
convolutions already.
"""

from torch import Tensor, nn

from deid.nets.mobilefacenet import PLAN
from deid.nets.tensorflow import SameConv2d

WIDTH, HEAD = PLAN[0][1], 512
"""Channels of the stem, and before the last map becomes a vector."""


def _filtered(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> nn.Sequential:
    convolution = SameConv2d(inputs, outputs, kernel, stride, groups=groups)
    return nn.Sequential(convolution, nn.PReLU(outputs))


class Bottleneck(nn.Module):
    """Widen, filter depthwise, narrow; the input is added where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.widen = _filtered(inputs, wide, 1, 1, 1)
        self.filter = _filtered(wide, wide, 3, stride, wide)
        self.narrow = nn.Conv2d(wide, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.narrow(self.filter(self.widen(x)))
        return x + y if self.residual else y


class MobileFaceNetTf(nn.Module):
    """`[N,3,112,112]` RGB, (x - 127.5) / 128 → `[N,192]`, not normalized."""

    dim = 192

    def __init__(self) -> None:
        super().__init__()
        self.stem = _filtered(3, WIDTH, 3, 2, 1)
        self.filter = _filtered(WIDTH, WIDTH, 3, 1, WIDTH)
        self.mix = nn.Conv2d(WIDTH, WIDTH, 1)
        self.blocks = nn.Sequential()
        before = WIDTH
        for expansion, outputs, count, stride in PLAN:
            for index in range(count):
                step = 1 if index else stride
                self.blocks.append(Bottleneck(before, outputs, step, expansion))
                before = outputs
        self.widen = _filtered(before, HEAD, 1, 1, 1)
        self.gather = nn.Conv2d(HEAD, HEAD, 7, groups=HEAD)
        self.linear = nn.Conv2d(HEAD, HEAD, 1)
        self.project = nn.Conv2d(HEAD, self.dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.mix(self.filter(self.stem(x))))
        code: Tensor = self.project(self.linear(self.gather(self.widen(x))))
        return code.flatten(1)
