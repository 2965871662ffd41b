"""MobileFaceNet (Chen et al. 2018) as a recognizer, in the names of foamliu/MobileFaceNet.

Inverted residuals over 112 px that end in a 7×7 depthwise convolution.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

Plan = Sequence[tuple[int, int, int, int]]
PLAN: Plan = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))
"""Expansion, width, blocks and first stride of each stage (table 1 of the paper)."""


def _unit6(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6())


class InvertedResidual(nn.Module):
    """Widen, filter depthwise, narrow; the input is added where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.conv = nn.Sequential(
            _unit6(inputs, wide, 1, 1, 1),
            _unit6(wide, wide, 3, stride, wide),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class Separable(nn.Module):
    """Depthwise 3×3 and pointwise 1×1, each with batch norm and ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, 1, 1, groups=width, bias=False)
        self.pointwise = nn.Conv2d(width, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.depthwise(x)))
        return F.relu(self.bn2(self.pointwise(x)))


class GlobalDepthwise(nn.Module):
    """One weight for each place of each channel: 7×7 → 1×1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, groups=width, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.depthwise(x))
        return y


class MobileFaceNetRecognizer(nn.Module):
    """foamliu/MobileFaceNet: `[N,3,112,112]`, ImageNet mean and std → `[N,dim]`, not normalized."""

    def __init__(self, dim: int = 128, head: int = 512, plan: Plan = PLAN) -> None:
        super().__init__()
        width = plan[0][1]
        self.conv1 = _unit6(3, width, 3, 2, 1)
        self.dw_conv = Separable(width)
        blocks = []
        for expansion, outputs, count, stride in plan:
            for index in range(count):
                step = 1 if index else stride
                blocks.append(InvertedResidual(width, outputs, step, expansion))
                width = outputs
        self.features = nn.Sequential(*blocks)
        self.conv2 = _unit6(width, head, 1, 1, 1)
        self.gdconv = GlobalDepthwise(head)
        self.conv3 = nn.Conv2d(head, dim, 1)
        self.bn = nn.BatchNorm2d(dim)
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(self.dw_conv(self.conv1(x)))
        x = self.bn(self.conv3(self.gdconv(self.conv2(x))))
        return x.flatten(1)

    def convolutions(self) -> Iterator[tuple[str, str]]:
        """Every convolution's name and its batch norm's, in the order of `forward`."""
        yield from (("conv1.0", "conv1.1"), ("dw_conv.depthwise", "dw_conv.bn1"))
        yield "dw_conv.pointwise", "dw_conv.bn2"
        for index in range(len(self.features)):
            block = f"features.{index}.conv"
            for conv, norm in (("0.0", "0.1"), ("1.0", "1.1"), ("2", "3")):
                yield f"{block}.{conv}", f"{block}.{norm}"
        yield from (("conv2.0", "conv2.1"), ("gdconv.depthwise", "gdconv.bn"), ("conv3", "bn"))
