"""MobileStyleGAN (Belousov 2021, arXiv 2104.04767): a StyleGAN2 student that draws in wavelets.

A block turns C channels at n×n into C/4 at 2n×2n by an inverse Haar transform, then convolves
depthwise and pointwise, twice. The network here is the exported one: demodulation is folded into
the pointwise weights and noise is a constant, so that the same w gives the same picture.
"""

from collections.abc import Callable, Mapping, Sequence
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
BANDED, BAND = 64, 16
"""Sides of maps from which on they are drawn, where no gradient is asked for, so many rows at a
time: what a processor's cache holds is not sent to memory and back by every layer."""
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


def in_bands(draw: Callable[[int, int], Tensor], height: int, margin: int = 0) -> Tensor:
    """`draw(0, height)`, which gives two rows for each, from bands of it where no gradient is asked
    for; a band is drawn with so many rows more on either side, which its filters reach."""
    if torch.is_grad_enabled() or height < BANDED:
        return draw(0, height)
    bands = []
    for first in range(0, height, BAND):
        low, high = max(0, first - margin), min(height, first + BAND + margin)
        bands.append(draw(low, high)[:, :, 2 * (first - low) :][:, :, : 2 * BAND])
    return torch.cat(bands, 2)


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

    def forward(self, x: Tensor, w: Tensor, rows: slice = slice(None)) -> Tensor:
        """`rows`: which of the picture's `x` are."""
        x = self.convolution(self.depthwise(x * self.style(w)))
        return F.leaky_relu(x.add_(self.noise[:, :, rows]), SLOPE, inplace=True)

    def coarse(self, x: Tensor, w: Tensor) -> Tensor:
        """The same on a picture so coarse that the 3×3 neighbors of a fine pixel are all one."""
        weight = cast(nn.Conv2d, self.depthwise).weight.sum((1, 2, 3))[:, None, None]
        x = self.convolution(x * (self.style(w) * weight))
        noise = F.adaptive_avg_pool2d(self.noise, x.shape[-1])
        return F.leaky_relu(x.add_(noise), SLOPE)


class WaveletBlock(nn.Module):
    """`[N,inputs,n,n]` → `[N,outputs,2n,2n]`; reads three rows of w+."""

    ROWS = 3

    def __init__(self, inputs: int, outputs: int, size: int, w_dim: int) -> None:
        super().__init__()
        self.style = Style(w_dim, inputs)
        self.first = StyledConvolution(inputs // 4, outputs, size, w_dim)
        self.second = StyledConvolution(outputs, outputs, size, w_dim)

    def forward(self, x: Tensor, ws: Tensor) -> Tensor:
        def draw(low: int, high: int) -> Tensor:
            rows = slice(2 * low, 2 * high)
            y = inverse_haar(x[:, :, low:high] * self.style(ws[:, 0]))
            return cast(Tensor, self.second(self.first(y, ws[:, 1], rows), ws[:, 2], rows))

        return in_bands(draw, x.shape[2], margin=1)  # two filters' reach, in rows of `x`

    def coarse(self, x: Tensor, ws: Tensor) -> Tensor:
        """Without enlarging: each place stands for the mean of the pixels it would become."""
        x = (x * self.style(ws[:, 0]))[:, : x.shape[1] // 4] * 0.5
        return self.second.coarse(self.first.coarse(x, ws[:, 1]), ws[:, 2])


class ToImage(nn.Module):
    """The last layer: `[N,C,n,n]` → a picture `[N,3,2n,2n]`; reads one row of w+."""

    def __init__(self, inputs: int, w_dim: int) -> None:
        super().__init__()
        self.style = Style(w_dim, inputs)
        self.convolution = nn.Conv2d(inputs, 12, 1)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        def draw(low: int, high: int) -> Tensor:
            return inverse_haar(self.convolution(x[:, :, low:high] * self.style(w)))

        return in_bands(draw, x.shape[2])


class MobileSynthesis(nn.Module):
    """w+ `[N,num_ws,w_dim]` → pictures `[N,3,R,R]`, with R = 4 · 2^len(channels)."""

    def __init__(self, channels: Sequence[int] = CHANNELS, w_dim: int = W_DIM) -> None:
        super().__init__()
        self.channels, self.w_dim = tuple(channels), w_dim
        self.constant = nn.Parameter(torch.randn(1, channels[0], 4, 4))
        self.start = StyledConvolution(channels[0], channels[0], 4, w_dim, depthwise=False)
        self.blocks = nn.ModuleList(
            WaveletBlock(before, after, 8 << i, w_dim)
            for i, (before, after) in enumerate(pairwise(channels))
        )
        self.to_image = ToImage(channels[-1], w_dim)
        self.num_ws = 1 + WaveletBlock.ROWS * len(self.blocks) + 1

    def forward(self, ws: Tensor) -> Tensor:
        return cast(Tensor, self.to_image(self.features(ws, len(self.blocks)), ws[:, -1]))

    def features(self, ws: Tensor, blocks: int) -> Tensor:
        """What the first so many blocks give: `[N,channels[blocks],n,n]`, n = 4 · 2^blocks."""
        x = self.constant.expand(len(ws), -1, -1, -1)
        x = self.start(x, ws[:, 0])
        for index in range(blocks):
            x = self.blocks[index](x, self._rows(ws, index))
        return cast(Tensor, x)

    def coarse(self, x: Tensor, ws: Tensor, blocks: int) -> Tensor:
        """From those features what the last layer would read, but at n×n."""
        for index in range(blocks, len(self.blocks)):
            x = cast(WaveletBlock, self.blocks[index]).coarse(x, self._rows(ws, index))
        return cast(Tensor, x * self.to_image.style(ws[:, -1]))

    def _rows(self, ws: Tensor, block: int) -> Tensor:
        first = 1 + WaveletBlock.ROWS * block
        return ws[:, first : first + WaveletBlock.ROWS]


class SmallHead(nn.Module):
    """A picture from an earlier block, twice its size: features `[N,C,n,n]` → `[N,3,2n,2n]`.

    Ours, no part of the public file: `deid.worlds.photo.pretrain.heads` fits it to the 1024 px
    pictures, reduced by area. The blocks left out shape the colors by the w they read, so they are
    drawn all the same, at n×n (`coarse`); the detail of 2n×2n comes from the features as they are.
    """

    HIDDEN = 48

    def __init__(self, inputs: int, coarse: int) -> None:
        super().__init__()
        self.straight = nn.Conv2d(inputs + coarse, 12, 1)
        self.narrow = nn.Conv2d(inputs + coarse, self.HIDDEN, 1)
        self.hidden = nn.Conv2d(self.HIDDEN, self.HIDDEN, 3, padding=1)
        self.bent = nn.Conv2d(self.HIDDEN, 12, 3, padding=1)
        nn.init.zeros_(self.bent.weight)
        nn.init.zeros_(cast(Tensor, self.bent.bias))

    def forward(self, x: Tensor, coarse: Tensor) -> Tensor:
        both = torch.cat([x, coarse], 1)
        hidden = F.leaky_relu(self.hidden(F.leaky_relu(self.narrow(both), SLOPE)), SLOPE)
        return inverse_haar(self.straight(both) + self.bent(hidden))


class StyleMapping(nn.Module):
    """StyleGAN2's mapping network: z `[N,w_dim]` → w `[N,w_dim]`, z normalized."""

    def __init__(self, w_dim: int = W_DIM, layers: int = MAPPING_LAYERS) -> None:
        super().__init__()
        self.w_dim = w_dim
        self.layers = nn.ModuleList(nn.Linear(w_dim, w_dim) for _ in range(layers))

    def forward(self, z: Tensor) -> Tensor:
        x = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE) * GAIN
        return x


class MobileStyleGAN(nn.Module):
    """z → mapping → w → synthesis → picture; satisfies `deid.worlds.world.Generator`.

    `resolution` is the side of the pictures that `synthesis` draws unless it is told another one of
    `resolutions`; below the largest a small head takes the place of the blocks left out. Heads and
    `w_mean`, the mean of w, are ours (`ours`); the rest is the public file's.
    """

    w_mean: Tensor

    def __init__(
        self, mapping: StyleMapping, synthesis: MobileSynthesis, resolution: int | None = None
    ) -> None:
        super().__init__()
        channels = synthesis.channels
        self.resolutions = tuple(4 << (len(channels) - i) for i in reversed(range(SMALLER + 1)))
        self.resolution = self._known(resolution or self.resolutions[-1])
        self.z_dim = self.w_dim = mapping.w_dim
        self.num_ws = synthesis.num_ws
        self.mapping_network, self.synthesis_network = mapping, synthesis
        self.heads = nn.ModuleDict(
            {
                str(side): SmallHead(channels[blocks_before(side)], channels[-1])
                for side in self.resolutions[:-1]
            }
        )

        self.register_buffer("w_mean", torch.zeros(self.w_dim))

    def ours(self) -> nn.Module:
        """Heads and mean w, as they are stored."""
        own = nn.Module()
        own.add_module("heads", self.heads)
        own.register_buffer("w_mean", self.w_mean)
        return own

    def load_ours(self, state: Mapping[str, Tensor]) -> None:
        """Take what `ours` was stored as."""
        self.ours().load_state_dict(state)

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
        if side == self.resolutions[-1]:
            return cast(Tensor, self.synthesis_network(ws))
        return cast(Tensor, self.heads[str(side)](*self.features(ws, side)))

    def features(self, ws: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """What the head for pictures of `side` px reads."""
        blocks, network = blocks_before(side), self.synthesis_network
        x = network.features(ws, blocks)
        return x, network.coarse(x, ws, blocks)

    def _known(self, side: int) -> int:
        if side not in self.resolutions:
            raise ValueError(f"resolution {side} is none of {self.resolutions}")
        return side


def blocks_before(side: int) -> int:
    """How many blocks there are before the last layer of a picture with this side."""
    return side.bit_length() - 4
