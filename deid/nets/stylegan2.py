"""StyleGAN2's generator (Karras et al. 2020), any resolution and width.

Numerics follow rosinality/stylegan2-pytorch, whose checkpoints `from_rosinality` reads. Modulation
is unfused: activations are scaled by the style, convolved with the shared weight, and scaled again
by the demodulation. That is the same function as modulating the weights, at about half the work in
training, and lets one plain convolution serve the whole batch.
"""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GAIN = math.sqrt(2.0)
"""Leaky ReLU's gain: keeps the variance of the activations."""


class EqualLinear(nn.Module):
    """Linear layer with equalised learning rate: the weight is N(0, 1) and scaled when used."""

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias))
        self.scale = rate / math.sqrt(inputs)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.rate)


class MappingNetwork(nn.Module):
    """z → w. With `skip`, a linear map of z is added, so that w begins as a rotation of z.

    `rate` is StyleGAN's learning-rate multiplier (0.01 there). `normalise` is PixelNorm on z; leave
    it off where the length of z, or of parts of it, means something.
    """

    def __init__(
        self, widths: Sequence[int], rate: float = 0.01, normalise: bool = True, skip: bool = False
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EqualLinear(a, b, rate=rate) for a, b in pairwise(widths))
        self.skip = EqualLinear(widths[0], widths[-1]) if skip else None
        self.normalise = normalise

    def forward(self, z: Tensor) -> Tensor:
        x = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8) if self.normalise else z
        start = x
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2) * GAIN
        return x if self.skip is None else x + self.skip(start)


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

    def __init__(self, inputs: int, outputs: int, size: int, w_dim: int, up: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.style = EqualLinear(w_dim, inputs, bias=1.0)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise", torch.randn(1, 1, size, size))
        self.scale = 1.0 / math.sqrt(inputs * 9)
        self.up = up

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = self.style(w)
        weight = self.weight * self.scale
        power = style.square() @ weight.square().sum((2, 3)).t()
        demodulation = torch.rsqrt(power + 1e-8) * GAIN
        x = x * style.to(x.dtype)[:, :, None, None]
        x = self._up(x, weight) if self.up else F.conv2d(x, weight, padding=1)
        shift = (self.noise * self.noise_strength + self.bias[:, None, None]) * GAIN
        # The gain is inside: leaky ReLU commutes with a positive factor. Under autocast all stays
        # in the convolution's type, since memory traffic is what this costs.
        x = x * demodulation.to(x.dtype)[:, :, None, None]
        return F.leaky_relu(x.add_(shift.to(x.dtype)), 0.2)

    def _up(self, x: Tensor, weight: Tensor) -> Tensor:
        return blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), gain=4.0)


class ToRGB(nn.Module):
    """Modulated 1×1 convolution to RGB, without demodulation."""

    def __init__(self, inputs: int, w_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.style = EqualLinear(w_dim, inputs, bias=1.0)
        self.scale = 1.0 / math.sqrt(inputs)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        # Three outputs: here modulating the weights is cheaper, as one small product per picture.
        weight = self.weight[:, :, 0, 0].t() * (self.style(w)[:, :, None] * self.scale)
        rgb: Tensor = (x.permute(0, 2, 3, 1).flatten(1, 2) @ weight).float() + self.bias
        return rgb.transpose(1, 2).reshape(len(x), 3, *x.shape[2:])


class StyleGAN2(nn.Module):
    """z → mapping → w → synthesis → picture; satisfies `deid.worlds.world.Generator`.

    `channels[r]` is the width at resolution r, for r = 4, 8, … `resolution`.
    """

    w_mean: Tensor

    def __init__(
        self,
        resolution: int,
        channels: Mapping[int, int],
        mapping: MappingNetwork,
        z_dim: int,
        w_dim: int,
    ) -> None:
        super().__init__()
        self.resolution, self.z_dim, self.w_dim = resolution, z_dim, w_dim
        sizes = [2**i for i in range(2, int(math.log2(resolution)) + 1)]
        if sizes[-1] != resolution or set(sizes) != set(channels):
            raise ValueError(f"channels must name each of {sizes}, ending at {resolution}")
        self.num_ws = 2 * len(sizes)
        self.mapping_network = mapping
        self.register_buffer("w_mean", torch.zeros(w_dim))  # for truncation
        self.constant = nn.Parameter(torch.randn(1, channels[4], 4, 4))
        self.convolutions, self.to_rgb = nn.ModuleList(), nn.ModuleList()
        before = channels[4]
        for size in sizes:
            width = channels[size]
            if size > 4:
                self.convolutions.append(StyledConvolution(before, width, size, w_dim, up=True))
            self.convolutions.append(StyledConvolution(width, width, size, w_dim, up=False))
            self.to_rgb.append(ToRGB(width, w_dim))
            before = width

    def mapping(self, z: Tensor) -> Tensor:
        """`z [N,z_dim]` → `w [N,w_dim]`."""
        w: Tensor = self.mapping_network(z)
        return w

    def synthesis(self, w: Tensor) -> Tensor:
        """`w [N,w_dim]` or `w+ [N,num_ws,w_dim]` → images `[N,3,R,R]`, about [-1, 1].

        A layer's ToRGB shares the w of the next convolution, hence 2 log2 R - 2 of them.
        """
        ws = w.unsqueeze(1).expand(-1, self.num_ws, -1) if w.ndim == 2 else w
        x = self.constant.expand(len(ws), -1, -1, -1)
        x = x.contiguous(memory_format=torch.channels_last)
        image: Tensor | None = None
        for index, convolution in enumerate(self.convolutions):
            x = convolution(x, ws[:, index])
            if index % 2 == 0:
                rgb = self.to_rgb[index // 2](x, ws[:, index + 1])
                image = rgb if image is None else upsample(image) + rgb
        assert image is not None
        return image

    def forward(self, z: Tensor) -> Tensor:
        """`z [N,z_dim]` → images `[N,3,R,R]`."""
        return self.synthesis(self.mapping(z))


def from_rosinality(state: Mapping[str, Tensor]) -> StyleGAN2:
    """The generator in a rosinality checkpoint's `g_ema`; widths come from the tensors' shapes.

    Noise that the file lacks (`550000.pt` has none) stays as initialised, so seed torch first.
    """
    depth = sum(bool(re.fullmatch(r"style\.\d+\.weight", name)) for name in state)
    w_dim = state["style.1.weight"].shape[1]
    blocks = sum(bool(re.fullmatch(r"to_rgbs\.\d+\.bias", name)) for name in state)
    channels = {4: state["conv1.conv.weight"].shape[1]}
    for i in range(blocks):
        channels[8 << i] = state[f"convs.{2 * i + 1}.conv.weight"].shape[1]
    mapping = MappingNetwork([w_dim] * (depth + 1))
    net = StyleGAN2(4 << blocks, channels, mapping, z_dim=w_dim, w_dim=w_dim)
    own = net.state_dict()
    for name, tensor in state.items():
        if not name.endswith("kernel"):  # the FIR filters are fixed
            target = _own_name(name)
            own[target] = tensor.reshape(own[target].shape)
    net.load_state_dict(own)
    return net


def _own_name(name: str) -> str:
    """A rosinality tensor's name here."""

    def following(match: re.Match[str]) -> str:
        return f"{match[1]}.{int(match[2]) + 1}."

    if match := re.fullmatch(r"style\.(\d+)\.(\w+)", name):
        return f"mapping_network.layers.{int(match[1]) - 1}.{match[2]}"
    if match := re.fullmatch(r"noises\.noise_(\d+)", name):
        return f"convolutions.{match[1]}.noise"
    name = re.sub(r"^(convs|to_rgbs)\.(\d+)\.", following, name)
    for theirs, ours in _RENAMED:
        name = name.replace(theirs, ours)
    return name


_RENAMED = (
    ("input.input", "constant"),
    ("to_rgb1.", "to_rgb.0."),
    ("to_rgbs.", "to_rgb."),
    ("conv1.", "convolutions.0."),
    ("convs.", "convolutions."),
    ("conv.modulation.", "style."),
    ("conv.weight", "weight"),
    ("noise.weight", "noise_strength"),
    ("activate.bias", "bias"),
)
