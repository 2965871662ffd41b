"""StyleGAN2's generator (Karras et al. 2020), any resolution and width.

Numerics follow rosinality/stylegan2-pytorch; NVIDIA's and genforce's checkpoints are the same
function with other names (`deid.weights.importers`). Modulation is unfused: activations are
scaled by the style, convolved with the shared weight, and scaled again by the demodulation. That is
the same function as modulating the weights, at about half the work in training, and lets one plain
convolution serve the whole batch. The other form, in the references' order of operations, is there
for comparison bit by bit (`StyleGAN2.fused`): where rounding decides a leaky ReLU's sign, a
gradient jumps, so that at 256 px the two forms' gradients differ by about a thousandth.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deid.nets.style import GAIN, EqualLinear, MappingNetwork, StyleGenerator


def blur(x: Tensor, gain: float) -> Tensor:
    """FIR [1,3,3,1] in both directions, `[N,C,H,W]` → `[N,C,H-1,W-1]`, zero padding of one."""
    taps = x.new_tensor([1.0, 3.0, 3.0, 1.0]) / 8.0
    kernel = (taps[:, None] * taps[None, :] * gain).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(x, kernel, padding=1, groups=x.shape[1])


def upsample(x: Tensor) -> Tensor:
    """Twice the size with FIR [1,3,3,1], which is bilinear interpolation with a zero border."""
    padded = F.pad(x, (1, 1, 1, 1))
    return F.interpolate(padded, scale_factor=2.0, mode="bilinear")[..., 2:-2, 2:-2]


class StyledConvolution(nn.Module):
    """Modulated, demodulated 3×3 convolution (with `up`: to twice the size), noise, leaky ReLU."""

    noise: Tensor
    fused = False

    def __init__(
        self, inputs: int, outputs: int, size: int, w_dim: int, up: bool, clamp: float | None = None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.style = EqualLinear(w_dim, inputs, bias=1.0)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise", torch.randn(1, 1, size, size))
        self.scale = 1.0 / math.sqrt(inputs * 9)
        self.up, self.clamp = up, clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = self.style(w)
        weight = self.weight * self.scale
        if self.fused:
            return self._fused(x, weight, style)
        power = style.square() @ weight.square().sum((2, 3)).t()
        demodulation = torch.rsqrt(power + 1e-8) * GAIN
        x = x * style.to(x.dtype)[:, :, None, None]
        x = self._up(x, weight) if self.up else F.conv2d(x, weight, padding=1)
        shift = (self.noise * self.noise_strength + self.bias[:, None, None]) * GAIN
        # The gain is inside: leaky ReLU commutes with a positive factor. Under autocast all stays
        # in the convolution's type, since memory traffic is what this costs.
        x = x * demodulation.to(x.dtype)[:, :, None, None]
        return self._clamped(F.leaky_relu(x.add_(shift.to(x.dtype)), 0.2))

    def _fused(self, x: Tensor, weight: Tensor, style: Tensor) -> Tensor:
        """One modulated weight for each picture, as one grouped convolution."""
        count, outputs = len(x), len(weight)
        modulated = weight * style[:, None, :, None, None]
        power = modulated.square().sum((2, 3, 4), keepdim=True)
        modulated = modulated * torch.rsqrt(power + 1e-8)
        x = x.reshape(1, -1, *x.shape[2:])
        if self.up:
            weights = modulated.transpose(1, 2).flatten(0, 1)
            x = F.conv_transpose2d(x, weights, stride=2, groups=count)
            x = blur(x.view(count, outputs, *x.shape[2:]), gain=4.0)
        else:
            x = F.conv2d(x, modulated.flatten(0, 1), padding=1, groups=count)
            x = x.view(count, outputs, *x.shape[2:])
        x = x + self.noise * self.noise_strength
        return self._clamped(F.leaky_relu(x + self.bias[:, None, None], 0.2) * GAIN)

    def _clamped(self, x: Tensor) -> Tensor:
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)

    def _up(self, x: Tensor, weight: Tensor) -> Tensor:
        return blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), gain=4.0)


class ToRGB(nn.Module):
    """Modulated 1×1 convolution to RGB, without demodulation."""

    def __init__(self, inputs: int, w_dim: int, clamp: float | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.style = EqualLinear(w_dim, inputs, bias=1.0)
        self.scale = 1.0 / math.sqrt(inputs)
        self.clamp = clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        # Three outputs: here modulating the weights is cheaper, as one small product per picture.
        weight = self.weight[:, :, 0, 0].t() * (self.style(w)[:, :, None] * self.scale)
        rgb: Tensor = (x.permute(0, 2, 3, 1).flatten(1, 2) @ weight).float() + self.bias
        rgb = rgb if self.clamp is None else rgb.clamp(-self.clamp, self.clamp)
        return rgb.transpose(1, 2).reshape(len(x), 3, *x.shape[2:])


class StyleGAN2(StyleGenerator):
    """StyleGAN2's generator with skip connections (configuration F, and every other width).

    `channels[r]` is the width at resolution r, for r = 4, 8, … `resolution`. `conv_clamp` bounds
    what every convolution gives, as NVIDIA's networks do (256, against float16's overflow; in
    float32 too).
    """

    def __init__(
        self,
        resolution: int,
        channels: Mapping[int, int],
        mapping: MappingNetwork,
        z_dim: int,
        w_dim: int,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__(resolution, mapping, z_dim, w_dim)
        sizes = [4 << i for i in range(self.num_ws // 2)]
        if not sizes or sizes[-1] != resolution or set(sizes) != set(channels):
            raise ValueError(f"channels must name each of {sizes}, ending at {resolution}")
        self.constant = nn.Parameter(torch.randn(1, channels[4], 4, 4))
        self.convolutions, self.to_rgb = nn.ModuleList(), nn.ModuleList()
        before = channels[4]
        for size in sizes:
            width = channels[size]
            if size > 4:
                up = StyledConvolution(before, width, size, w_dim, up=True, clamp=conv_clamp)
                self.convolutions.append(up)
            same = StyledConvolution(width, width, size, w_dim, up=False, clamp=conv_clamp)
            self.convolutions.append(same)
            self.to_rgb.append(ToRGB(width, w_dim, conv_clamp))
            before = width

    @property
    def fused(self) -> bool:
        """Whether weights are modulated instead of activations: the same pictures, more work."""
        return all(convolution.fused for convolution in self.convolutions)

    @fused.setter
    def fused(self, value: bool) -> None:
        for convolution in self.convolutions:
            assert isinstance(convolution, StyledConvolution)
            convolution.fused = value

    def draw(self, ws: Tensor) -> Tensor:
        """A layer's ToRGB shares the w of the next convolution."""
        memory = torch.contiguous_format if self.fused else torch.channels_last
        x = self.constant.expand(len(ws), -1, -1, -1).contiguous(memory_format=memory)
        image: Tensor | None = None
        for index, convolution in enumerate(self.convolutions):
            x = convolution(x, ws[:, index])
            if index % 2 == 0:
                rgb = self.to_rgb[index // 2](x, ws[:, index + 1])
                image = rgb if image is None else upsample(image) + rgb
        assert image is not None
        return image


def stylegan2(
    channels: Sequence[int], mapping: Sequence[int], conv_clamp: float | None = None
) -> StyleGAN2:
    """From plain values, as cards hold them: the widths at 4, 8, … and z's, …, w's."""
    by_size = {4 << i: width for i, width in enumerate(channels)}
    network = MappingNetwork(mapping)
    return StyleGAN2(max(by_size), by_size, network, mapping[0], mapping[-1], conv_clamp)
