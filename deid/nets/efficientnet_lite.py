"""EfficientNet-Lite0 (Tan and Le 2019; without squeeze-and-excitation and with ReLU6).

Names follow the public checkpoint's, which are lukemelas/EfficientNet-PyTorch's.
"""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from deid.nets.tensorflow import SameConv2d

DIM = 1280
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Blocks, kernel, stride of the first, expansion, outputs."""


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    """Widen 1×1 (where there is an expansion), filter depthwise, narrow 1×1."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv = nn.Conv2d(inputs, wide, 1, bias=False)
            self._bn0 = _norm(wide)
        self._depthwise_conv = SameConv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = _norm(wide)
        self._project_conv = nn.Conv2d(wide, outputs, 1, bias=False)
        self._bn2 = _norm(outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = cast(Tensor, self._bn2(self._project_conv(y)))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """`[N,3,H,W]` RGB, (x - 127) / 128 → `[N,1280]`, the last map averaged over places."""

    dim = DIM

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        self._blocks = nn.ModuleList()
        before = 32
        self.ends = []  # the last block of each stage
        for count, kernel, stride, expansion, outputs in STAGES:
            for index in range(count):
                step = stride if index == 0 else 1
                self._blocks.append(Block(before, outputs, kernel, step, expansion))
                before = outputs
            self.ends.append(len(self._blocks) - 1)
        self._conv_head = nn.Conv2d(before, DIM, 1, bias=False)
        self._bn1 = _norm(DIM)

    def maps(self, x: Tensor) -> list[Tensor]:
        """What each of the seven stages gives, then the last map `[N,1280,H/32,W/32]`."""
        x = F.relu6(self._bn0(self._conv_stem(x)))
        maps = []
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in self.ends:
                maps.append(x)
        return [*maps, F.relu6(self._bn1(self._conv_head(x)))]

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x)[-1].mean((2, 3))
