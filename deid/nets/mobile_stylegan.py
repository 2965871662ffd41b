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

W_DIM = 512
SLOPE = 0.2
"""Of the leaky ReLUs."""
CHANNELS = (512, 512, 512, 512, 512, 256, 128, 64)
"""Widths at 4, 8, … 512 px; the last gives the wavelets of 1024 px."""
RESOLUTIONS = (128, 256, 512, 1024)


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

    def __init__(self, inputs: int, outputs: int, size: int, depthwise: bool = True) -> None:
        super().__init__()
        self.style = Style(W_DIM, inputs)
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

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__()
        self.style = Style(W_DIM, inputs)
        self.first = StyledConvolution(inputs // 4, outputs, size)
        self.second = StyledConvolution(outputs, outputs, size)

    def forward(self, x: Tensor, ws: Tensor) -> Tensor:
        x = inverse_haar(x * self.style(ws[:, 0]))
        return cast(Tensor, self.second(self.first(x, ws[:, 1]), ws[:, 2]))


class ToImage(nn.Module):
    """The last layer: `[N,C,n,n]` → a picture `[N,3,2n,2n]`; reads one row of w+."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.style = Style(W_DIM, inputs)
        self.convolution = nn.Conv2d(inputs, 12, 1)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return inverse_haar(self.convolution(x * self.style(w)))


class SmallHead(nn.Module):
    """A picture from an earlier block, twice its size: `[N,C,n,n]` → `[N,3,2n,2n]`.

    Ours, no part of the public file: fitted to the area-reduced 1024 px pictures. It stands for
    all the blocks that are left out, so it has a hidden layer; it reads the last row of w+.
    """

    HIDDEN = 64

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.style = Style(W_DIM, inputs)
        self.narrow = nn.Conv2d(inputs, self.HIDDEN, 1)
        self.hidden = nn.Conv2d(self.HIDDEN, self.HIDDEN, 3, padding=1)
        self.straight = nn.Conv2d(self.HIDDEN, 12, 1)
        self.bent = nn.Conv2d(self.HIDDEN, 12, 1)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = self.narrow(x * self.style(w))
        bent = F.leaky_relu(self.hidden(F.leaky_relu(x, SLOPE)), SLOPE)
        return inverse_haar(self.straight(x) + self.bent(bent))


class StyleMapping(nn.Module):
    """StyleGAN2's mapping network: z `[N,512]` → w `[N,512]`, eight layers, z normalized."""

    def __init__(self, widths: Sequence[int] = (W_DIM,) * 9) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, z: Tensor) -> Tensor:
        x = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE) * GAIN
        return x


class MobileStyleGAN(nn.Module):
    """z → mapping → w → synthesis → picture; satisfies `deid.worlds.world.Generator`.

    `resolution` is the side of the pictures that `synthesis` draws unless it is told another. Only
    `RESOLUTIONS` are possible; below 1024 a small head takes the place of the blocks left out.
    """

    ROWS = 1 + WaveletBlock.ROWS * (len(CHANNELS) - 1) + 1

    def __init__(self, resolution: int = 256) -> None:
        super().__init__()
        if resolution not in RESOLUTIONS:
            raise ValueError(f"resolution {resolution} is none of {RESOLUTIONS}")
        self.resolution = resolution
        self.z_dim = self.w_dim = W_DIM
        self.num_ws = self.ROWS
        self.mapping_network = StyleMapping()
        self.constant = nn.Parameter(torch.randn(1, CHANNELS[0], 4, 4))
        self.start = StyledConvolution(CHANNELS[0], CHANNELS[0], 4, depthwise=False)
        self.blocks = nn.ModuleList(
            WaveletBlock(before, after, 8 << i) for i, (before, after) in enumerate(pairwise(CHANNELS))
        )
        self.to_image = ToImage(CHANNELS[-1])
        self.heads = nn.ModuleDict(
            {str(side): SmallHead(CHANNELS[_blocks(side)]) for side in RESOLUTIONS[:-1]}
        )

    def mapping(self, z: Tensor) -> Tensor:
        """`z [N,512]` → `w [N,512]`."""
        return cast(Tensor, self.mapping_network(z))

    def spread(self, w: Tensor) -> Tensor:
        """`w [N,512]` at every row: w+ `[N,23,512]`; w+ stays as it is."""
        return w.unsqueeze(1).expand(-1, self.num_ws, -1) if w.ndim == 2 else w

    def synthesis(self, w: Tensor, resolution: int | None = None) -> Tensor:
        """`w [N,512]` or `w+ [N,23,512]` → pictures `[N,3,R,R]`, about [-1, 1]."""
        side = resolution or self.resolution
        ws = self.spread(w)
        features = self.features(ws, side)
        if side == RESOLUTIONS[-1]:
            return cast(Tensor, self.to_image(features, ws[:, -1]))
        return cast(Tensor, self.heads[str(side)](features, ws[:, -1]))

    def features(self, ws: Tensor, side: int) -> Tensor:
        """What the last layer for pictures of `side` px reads: `[N,C,side/2,side/2]`."""
        x = self.constant.expand(len(ws), -1, -1, -1)
        x = self.start(x, ws[:, 0])
        for index in range(_blocks(side)):
            row = 1 + WaveletBlock.ROWS * index
            x = self.blocks[index](x, ws[:, row : row + WaveletBlock.ROWS])
        return x


def _blocks(side: int) -> int:
    """How many blocks there are before the last layer of a picture with this side."""
    return side.bit_length() - 4
