"""Small convolutional backbones for faces of 64 px; each gives a map for every stage.

Three families, so that a recognizer which was never attacked differs from the attacked one by more
than its seed: residual (He et al. 2016), inverted residual (MobileNetV2, Sandler et al. 2018) and
large-kernel (ConvNeXt, Liu et al. 2022; batch instead of layer normalization, which a CPU likes).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INPUT_SIZE = 64
Family = Literal["resnet", "mobile", "convnext"]


def at_size(images: Tensor, size: int = INPUT_SIZE) -> Tensor:
    """`[N,C,H,W]` of any size → `[N,C,size,size]`, bilinear with antialiasing, differentiable."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(
        images, size=(size, size), mode="bilinear", antialias=True, align_corners=False
    )


def convolution(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: bool = True
) -> nn.Sequential:
    """Convolution, batch norm and, with `act`, ReLU; padded so that stride 1 keeps the size."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if act else nn.Sequential(*layers)


class Residual(nn.Module):
    """Two 3×3 convolutions beside a shortcut; the shortcut is averaged where the block strides."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolution(inputs, outputs, 3, stride), convolution(outputs, outputs, act=False)
        )
        pool: nn.Module = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        same = inputs == outputs and stride == 1
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(pool, convolution(inputs, outputs, 1, act=False))
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class InvertedResidual(nn.Module):
    """Widen with 1×1, filter depthwise with 3×3, narrow with 1×1, without activation."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, expansion: int = 3) -> None:
        super().__init__()
        wide = inputs * expansion
        self.body = nn.Sequential(
            convolution(inputs, wide, 1),
            convolution(wide, wide, 3, stride, groups=wide),
            convolution(wide, outputs, 1, act=False),
        )
        self.residual = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.residual else y


class LargeKernel(nn.Module):
    """Depthwise 7×7, then a two-layer perceptron at every place, beside the identity.

    A stage begins with a strided 2×2 convolution, as ConvNeXt's do.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, expansion: int = 3) -> None:
        super().__init__()
        narrow = nn.Conv2d(inputs, outputs, stride, stride)
        self.down: nn.Module = nn.Identity() if inputs == outputs and stride == 1 else narrow
        self.body = nn.Sequential(
            convolution(outputs, outputs, 7, groups=outputs, act=False),
            nn.Conv2d(outputs, outputs * expansion, 1),
            nn.GELU(),
            nn.Conv2d(outputs * expansion, outputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        y: Tensor = self.body(x)
        return x + y


class Backbone(nn.Module):
    """`[N,3,H,W]` → one map a stage: the first a half or a quarter of 64 wide, then halving."""

    def __init__(self, family: Family, channels: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        block = {"resnet": Residual, "mobile": InvertedResidual, "convnext": LargeKernel}[family]
        stem = 4 if family == "convnext" else 2
        kernel = 4 if family == "convnext" else 3
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels[0], kernel, stem, (kernel - 1) // 2 if kernel == 3 else 0),
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(inplace=True),
        )
        self.stages = nn.ModuleList()
        before = channels[0]
        for index, (width, count) in enumerate(zip(channels, blocks, strict=True)):
            strides = [2 if index else 1] + [1] * (count - 1)
            self.stages.append(
                nn.Sequential(
                    *(block(before if i == 0 else width, width, s) for i, s in enumerate(strides))
                )
            )
            before = width
        self.family, self.channels = family, tuple(channels)
        self.last_size = INPUT_SIZE // stem >> (len(channels) - 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = at_size(images).contiguous(memory_format=torch.channels_last)
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps
