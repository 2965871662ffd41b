"""iResNet, the backbone of ArcFace (Deng et al. 2019), as InsightFace trains and exports it.

Names are those of `arcface_torch/backbones/iresnet.py`; depths 18 to 200 differ in `blocks` only.
"""

from collections.abc import Sequence

from torch import Tensor, nn

SIDE = 7
"""The last map's side, for the 112-px input."""


class Block(nn.Module):
    """Batch norm first, then 3×3, PReLU, 3×3 (which strides), beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        y = self.bn3(self.conv2(y))
        return y + (x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    """`[N,3,112,112]` aligned RGB in [-1, 1] → `[N,dim]`, not normalized."""

    def __init__(
        self,
        blocks: Sequence[int] = (3, 4, 14, 3),
        widths: Sequence[int] = (64, 128, 256, 512),
        dim: int = 512,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.prelu = nn.PReLU(widths[0])
        inputs = widths[0]
        for index, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            layers = [Block(inputs, width, 2)]
            layers += [Block(width, width, 1) for _ in range(count - 1)]
            self.add_module(f"layer{index + 1}", nn.Sequential(*layers))
            inputs = width
        self.stages = len(blocks)
        self.bn2 = nn.BatchNorm2d(inputs)
        self.fc = nn.Linear(inputs * SIDE**2, dim)
        self.features = nn.BatchNorm1d(dim)
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        x = self.prelu(self.bn1(self.conv1(x)))
        for index in range(self.stages):
            x = self.get_submodule(f"layer{index + 1}")(x)
        # contiguous: with channels_last, flatten alone would still be right but copy twice.
        x = self.fc(self.bn2(x).contiguous().flatten(1))
        embedding: Tensor = self.features(x)
        return embedding
