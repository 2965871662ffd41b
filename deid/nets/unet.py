"""A U-Net (Ronneberger et al. 2015) for pictures of faces, and multi-scale patch discriminators
(Wang et al. 2018, pix2pixHD), small enough for a processor."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUP = 8
"""Channels that are normalized together."""


def conv_block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3×3 convolution, group norm, leaky ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.GroupNorm(outputs // GROUP, outputs),
        nn.LeakyReLU(0.2, inplace=True),
    )


class ResidualBlock(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_block(channels, channels), conv_block(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y


class UNet(nn.Module):
    """`[N,inputs,H,W]` → `[N,outputs,H,W]`, without a last activation.

    Each of `channels` is a level, half as wide as the one before; `blocks` residual ones lie at the
    bottom. Sides must be multiples of 2 to the power of the levels below the first.
    """

    def __init__(self, inputs: int, outputs: int, channels: Sequence[int], blocks: int = 0) -> None:
        super().__init__()
        pairs = list(pairwise(channels))
        self.first = conv_block(inputs, channels[0])
        self.down = nn.ModuleList([conv_block(a, b, stride=2) for a, b in pairs])
        self.bottom = nn.Sequential(*(ResidualBlock(channels[-1]) for _ in range(blocks)))
        self.up = nn.ModuleList([conv_block(a + b, a) for a, b in reversed(pairs)])
        self.last = nn.Conv2d(channels[0], outputs, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        passed = []
        for down in self.down:
            passed.append(x)
            x = down(x)
        x = self.bottom(x)
        for up in self.up:
            x = up(torch.cat([F.interpolate(x, scale_factor=2.0), passed.pop()], 1))
        y: Tensor = self.last(x)
        return y


class PatchDiscriminator(nn.Sequential):
    """`[N,inputs,H,W]` → how real each patch looks, `[N,1,H/8,W/8]`, any number."""

    def __init__(self, inputs: int, channels: Sequence[int] = (16, 32, 64)) -> None:
        layers: list[nn.Module] = []
        before = inputs
        for index, width in enumerate(channels):
            layers.append(nn.Conv2d(before, width, 4, 2, 1))
            if index:
                layers.append(nn.InstanceNorm2d(width))
            layers.append(nn.LeakyReLU(0.2))
            before = width
        super().__init__(*layers, nn.Conv2d(before, 1, 3, 1, 1))


class MultiScaleDiscriminator(nn.Module):
    """The same kind at the picture's size and at halves of it: a map for each of `scales`."""

    def __init__(self, inputs: int = 3, scales: int = 2) -> None:
        super().__init__()
        self.each = nn.ModuleList([PatchDiscriminator(inputs) for _ in range(scales)])

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = []
        for network in self.each:
            maps.append(network(images))
            images = F.avg_pool2d(images, 2)
        return maps
