"""StyleGAN1's generator (Karras et al. 2019), any resolution and width, fully grown.

Numerics follow genforce/genforce: convolution (after doubling the size, blur), noise, bias, leaky
ReLU without gain, instance norm, style. Weights here all mean "nearest-neighbor doubling, then
correlation"; importers flip those of layers that the original ran as a transposed convolution.
The ToRGB layers of smaller pictures served growing only and are left out.

Operations keep genforce's order, though norm and style could be one affine map: instance norm
amplifies rounding, and where a float's last bit decides a leaky ReLU's sign, a gradient jumps. So
the same torch gives genforce's very bits.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deid.nets.style import GAIN, EqualLinear, MappingNetwork, StyleGenerator

FUSED_FROM = 128
"""The smallest picture whose doubling convolution is a transposed one ("fused scale: auto")."""


class StyledLayer(nn.Module):
    """Noise, bias, leaky ReLU, instance norm, style: `x · (s0 + 1) + s1`, for each channel."""

    noise: Tensor

    def __init__(self, channels: int, size: int, w_dim: int, epsilon: float) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        self.noise_strength = nn.Parameter(torch.zeros(channels))
        self.register_buffer("noise", torch.randn(1, 1, size, size))
        self.style = EqualLinear(w_dim, 2 * channels)
        self.epsilon = epsilon

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = x + self.noise * self.noise_strength[:, None, None]
        x = F.leaky_relu(x + self.bias[:, None, None], 0.2)
        x = x - x.mean((2, 3), keepdim=True)
        x = x / torch.sqrt(x.square().mean((2, 3), keepdim=True) + self.epsilon)
        gain, offset = self.style(w)[:, :, None, None].chunk(2, 1)
        styled: Tensor = x * (gain + 1.0) + offset
        return styled


class Convolution(nn.Module):
    """3×3 convolution, with `size` after doubling to that size, and blurred with [1,2,1].

    From 128 px on, doubling and convolving are one transposed convolution, as in the original.
    """

    def __init__(self, inputs: int, outputs: int, size: int | None, early_bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        # Before the blur, unlike the layer's own bias: differs along the picture's edge.
        self.bias = nn.Parameter(torch.zeros(outputs)) if size and early_bias else None
        self.scale = GAIN / math.sqrt(inputs * 9)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.scale
        if self.size is None:
            return F.conv2d(x, weight, padding=1)
        if self.size < FUSED_FROM:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            return _blur(F.conv2d(x, weight, self.bias, padding=1))
        taps = F.pad(weight.flip(2, 3), (1, 1, 1, 1))
        taps = taps[..., 1:, 1:] + taps[..., :-1, 1:] + taps[..., 1:, :-1] + taps[..., :-1, :-1]
        return _blur(F.conv_transpose2d(x, taps.transpose(0, 1), self.bias, stride=2, padding=1))


class ToRGB(nn.Module):
    """1×1 convolution to RGB, without style."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.scale = 1.0 / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale) + self.bias[:, None, None]


def _blur(x: Tensor) -> Tensor:
    """FIR [1,2,1] in both directions, zero padding."""
    taps = x.new_tensor([0.25, 0.5, 0.25])
    kernel = torch.outer(taps, taps).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(x, kernel, padding=1, groups=x.shape[1])


class StyleGAN1(StyleGenerator):
    """`channels` are the widths at 4, 8, … R. `epsilon` is the instance norm's. With `early_bias`
    the bias of a doubling layer comes before its blur (rosinality), otherwise after (genforce)."""

    def __init__(
        self,
        channels: Sequence[int],
        mapping: MappingNetwork,
        z_dim: int,
        w_dim: int,
        epsilon: float = 1e-8,
        early_bias: bool = False,
    ) -> None:
        super().__init__(2 << len(channels), mapping, z_dim, w_dim)
        self.constant = nn.Parameter(torch.ones(1, channels[0], 4, 4))
        self.convolutions = nn.ModuleList()  # one before each layer but the first
        self.layers = nn.ModuleList()
        before = channels[0]
        for index, width in enumerate(channels):
            if index > 0:
                self.convolutions.append(Convolution(before, width, 4 << index, early_bias))
            self.layers.append(StyledLayer(width, 4 << index, w_dim, epsilon))
            self.convolutions.append(Convolution(width, width, None, early_bias))
            self.layers.append(StyledLayer(width, 4 << index, w_dim, epsilon))
            before = width
        self.to_rgb = ToRGB(before)

    def draw(self, ws: Tensor) -> Tensor:
        """Layer i takes the i-th w."""
        x = self.layers[0](self.constant.expand(len(ws), -1, -1, -1), ws[:, 0])
        for index, convolution in enumerate(self.convolutions, start=1):
            x = self.layers[index](convolution(x), ws[:, index])
        image: Tensor = self.to_rgb(x)
        return image


def stylegan1(
    channels: Sequence[int],
    mapping: Sequence[int],
    mapping_rate: float = 0.01,
    epsilon: float = 1e-8,
    early_bias: bool = False,
) -> StyleGAN1:
    """From plain values, as cards hold them: the widths at 4, 8, … and z's, …, w's."""
    network = MappingNetwork(mapping, rate=mapping_rate)
    return StyleGAN1(channels, network, mapping[0], mapping[-1], epsilon, early_bias)
