"""MobileStyleGAN (Belousov 2021, arXiv 2104.04767): a StyleGAN2 student that draws in wavelets.

A block turns C channels at n×n into C/4 at 2n×2n by an inverse Haar transform, then convolves
depthwise and pointwise, twice. The network here is the exported one: demodulation is folded into
the pointwise weights and noise is a constant, so that the same w gives the same picture.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deid.nets.style import GAIN

W_DIM, MAPPING_LAYERS = 512, 8
SLOPE = 0.2
"""Of the leaky ReLUs."""
CHANNELS = (512, 512, 512, 512, 512, 256, 128, 64)
"""Widths at 4, 8, … 512 px; the last gives the wavelets of 1024 px."""
SMALLER = 3
"""How many smaller resolutions have a head of their own."""


def inverse_haar(x: Tensor) -> Tensor:
    """`[N,4C,n,n]` → `[N,C,2n,2n]`, orthonormal.

    The first C channels are the means; then three for each: vertical, horizontal and diagonal
    detail.
    """
    count, quadruple, height, width = x.shape
    channels = quadruple // 4
    means = x[:, :channels]
    vertical, horizontal, diagonal = (
        x[:, channels:].view(count, channels, 3, height, width).unbind(2)
    )
    top, bottom = means + vertical, means - vertical
    tilt_top, tilt_bottom = horizontal + diagonal, horizontal - diagonal
    quarters = (top + tilt_top, top - tilt_top, bottom + tilt_bottom, bottom - tilt_bottom)
    return F.pixel_shuffle(torch.stack(quarters, 2).flatten(1, 2), 2) * 0.5


class Style(nn.Linear):
    """w `[N,w_dim]` → a factor for each channel, `[N,C,1,1]`."""

    def forward(self, w: Tensor) -> Tensor:
        return super().forward(w)[:, :, None, None]


class StyledConvolution(nn.Module):
    """Modulated convolution, constant noise, bias and leaky ReLU.

    `depthwise`: a 3×3 filter for each channel, then 1×1; else one full 3×3.
    """

    noise: Tensor

    def __init__(
        self, inputs: int, outputs: int, size: int, w_dim: int, depthwise: bool = True
    ) -> None:
        super().__init__()
        self.style = Style(w_dim, inputs)
        self.depthwise = (
            nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
            if depthwise
            else nn.Identity()
        )
        kernel = 1 if depthwise else 3
        self.convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.register_buffer("noise", torch.zeros(1, 1, size, size))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = self.convolution(self.depthwise(x * self.style(w)))
        return F.leaky_relu(x.add_(self.noise), SLOPE)


class WaveletBlock(nn.Module):
    """`[N,inputs,n,n]` → `[N,outputs,2n,2n]`; reads three rows of w+."""

    ROWS = 3

    def __init__(self, inputs: int, outputs: int, size: int, w_dim: int) -> None:
        super().__init__()
        self.style = Style(w_dim, inputs)
        self.first = StyledConvolution(inputs // 4, outputs, size, w_dim)
        self.second = StyledConvolution(outputs, outputs, size, w_dim)

    def forward(self, x: Tensor, ws: Tensor) -> Tensor:
        x = self.enlarge(x * self.style(ws[:, 0]))
        return cast(Tensor, self.second(self.first(x, ws[:, 1]), ws[:, 2]))

    def enlarge(self, x: Tensor) -> Tensor:
        """`[N,4C,n,n]` → `[N,C,2n,2n]`."""
        return inverse_haar(x)


class CoarseBlock(WaveletBlock):
    """A block that stays at n×n: of the wavelets it takes the means alone."""

    def enlarge(self, x: Tensor) -> Tensor:
        """`[N,4C,n,n]` → `[N,C,n,n]`, each place the mean of the four pixels it stands for."""
        return x[:, : x.shape[1] // 4] * 0.5


class ToImage(nn.Module):
    """The last layer: `[N,C,n,n]` → a picture `[N,3,2n,2n]`; reads one row of w+."""

    def __init__(self, inputs: int, w_dim: int) -> None:
        super().__init__()
        self.style = Style(w_dim, inputs)
        self.convolution = nn.Conv2d(inputs, 12, 1)

    def wavelets(self, x: Tensor, w: Tensor) -> Tensor:
        """The picture's wavelets, `[N,12,n,n]`."""
        return cast(Tensor, self.convolution(x * self.style(w)))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return inverse_haar(self.wavelets(x, w))


class SmallHead(nn.Module):
    """A picture from an earlier block, twice its size: `[N,C,n,n]` → `[N,3,2n,2n]`.

    Ours, no part of the public file: `deid.worlds.photo.pretrain.heads` fits it to the 1024 px
    pictures, reduced by area. The blocks left out shape the colors by the w they read, so they are
    drawn all the same, though at n×n; the detail of 2n×2n comes from the features as they are.
    """

    def __init__(self, channels: Sequence[int], size: int, w_dim: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            CoarseBlock(before, after, size, w_dim) for before, after in pairwise(channels)
        )
        self.to_image = ToImage(channels[-1], w_dim)
        self.detail = nn.Conv2d(channels[0], 12, 1, bias=False)

    def forward(self, x: Tensor, ws: Tensor) -> Tensor:
        detail = self.detail(x)
        for index, block in enumerate(self.blocks):
            x = block(x, ws[:, WaveletBlock.ROWS * index :])
        return inverse_haar(self.to_image.wavelets(x, ws[:, -1]) + detail)


class StyleMapping(nn.Module):
    """StyleGAN2's mapping network: z `[N,w_dim]` → w `[N,w_dim]`, z normalized."""

    def __init__(self, w_dim: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(w_dim, w_dim) for _ in range(layers))

    def forward(self, z: Tensor) -> Tensor:
        x = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE) * GAIN
        return x


class MobileStyleGAN(nn.Module):
    """z → mapping → w → synthesis → picture; satisfies `deid.worlds.world.Generator`.

    `resolution` is the side of the pictures that `synthesis` draws unless it is told another one of
    `resolutions`; below the largest a small head takes the place of the blocks left out.
    """

    def __init__(
        self,
        resolution: int | None = None,
        channels: Sequence[int] = CHANNELS,
        w_dim: int = W_DIM,
        mapping_layers: int = MAPPING_LAYERS,
    ) -> None:
        super().__init__()
        self.resolutions = tuple(4 << (len(channels) - i) for i in reversed(range(SMALLER + 1)))
        self.resolution = self._known(resolution or self.resolutions[-1])
        self.z_dim = self.w_dim = w_dim
        self.num_ws = 1 + WaveletBlock.ROWS * (len(channels) - 1) + 1
        self.mapping_network = StyleMapping(w_dim, mapping_layers)
        self.constant = nn.Parameter(torch.randn(1, channels[0], 4, 4))
        self.start = StyledConvolution(channels[0], channels[0], 4, w_dim, depthwise=False)
        self.blocks = nn.ModuleList(
            WaveletBlock(before, after, 8 << i, w_dim)
            for i, (before, after) in enumerate(pairwise(channels))
        )
        self.to_image = ToImage(channels[-1], w_dim)
        self.heads = nn.ModuleDict(
            {
                str(side): SmallHead(channels[_blocks(side) :], side // 2, w_dim)
                for side in self.resolutions[:-1]
            }
        )

    def mapping(self, z: Tensor) -> Tensor:
        """`z [N,z_dim]` → `w [N,w_dim]`."""
        return cast(Tensor, self.mapping_network(z))

    def spread(self, w: Tensor) -> Tensor:
        """`w [N,w_dim]` at every row: w+ `[N,num_ws,w_dim]`; w+ stays as it is."""
        return w.unsqueeze(1).expand(-1, self.num_ws, -1) if w.ndim == 2 else w

    def synthesis(self, w: Tensor, resolution: int | None = None) -> Tensor:
        """`w [N,w_dim]` or `w+ [N,num_ws,w_dim]` → pictures `[N,3,R,R]`, about [-1, 1]."""
        side = self._known(resolution or self.resolution)
        ws = self.spread(w)
        features = self.features(ws, side)
        if side == self.resolutions[-1]:
            return cast(Tensor, self.to_image(features, ws[:, -1]))
        left = 1 + WaveletBlock.ROWS * _blocks(side)
        return cast(Tensor, self.heads[str(side)](features, ws[:, left:]))

    def features(self, ws: Tensor, side: int) -> Tensor:
        """What the last layer for pictures of `side` px reads: `[N,C,side/2,side/2]`."""
        x = self.constant.expand(len(ws), -1, -1, -1)
        x = self.start(x, ws[:, 0])
        for index in range(_blocks(side)):
            row = 1 + WaveletBlock.ROWS * index
            x = self.blocks[index](x, ws[:, row : row + WaveletBlock.ROWS])
        return x

    def _known(self, side: int) -> int:
        if side not in self.resolutions:
            raise ValueError(f"resolution {side} is none of {self.resolutions}")
        return side


def _blocks(side: int) -> int:
    """How many blocks there are before the last layer of a picture with this side."""
    return side.bit_length() - 4
