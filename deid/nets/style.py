"""What StyleGAN1 and StyleGAN2 share: equalised layers, the mapping network, how w is used."""

import math
from collections.abc import Sequence
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

    `rate` is StyleGAN's learning-rate multiplier (0.01 there). `normalize` is PixelNorm on z; leave
    it off where the length of z, or of parts of it, means something.
    """

    def __init__(
        self, widths: Sequence[int], rate: float = 0.01, normalize: bool = True, skip: bool = False
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EqualLinear(a, b, rate=rate) for a, b in pairwise(widths))
        self.skip = EqualLinear(widths[0], widths[-1]) if skip else None
        self.normalize = normalize

    def forward(self, z: Tensor) -> Tensor:
        x = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8) if self.normalize else z
        start = x
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2) * GAIN
        return x if self.skip is None else x + self.skip(start)


def truncate(w: Tensor, w_mean: Tensor, psi: float) -> Tensor:
    """Truncation: `w` `[...,w_dim]` moved toward `w_mean` `[w_dim]`, `w̄ + ψ (w − w̄)`.

    ψ = 1 leaves w as it is, 0 gives the mean face (Karras et al. 2019, appendix B).
    """
    return w if psi == 1.0 else torch.lerp(w_mean, w, psi)


class StyleGenerator(nn.Module):
    """z → mapping → w → synthesis → picture; satisfies `deid.worlds.world.Generator`.

    A subclass draws the picture, in `draw`, from `num_ws` = 2 log2 R - 2 of w. The noise of every
    layer is a buffer, so the same w gives the same picture.
    """

    w_mean: Tensor  # `[w_dim]`, the mean of `mapping`, for `truncate`

    def __init__(self, resolution: int, mapping: MappingNetwork, z_dim: int, w_dim: int) -> None:
        super().__init__()
        self.resolution, self.z_dim, self.w_dim = resolution, z_dim, w_dim
        self.num_ws = 2 * (resolution.bit_length() - 2)
        self.mapping_network = mapping
        self.register_buffer("w_mean", torch.zeros(w_dim))

    def draw(self, ws: Tensor) -> Tensor:
        """`w+ [N,num_ws,w_dim]` → images `[N,3,R,R]`."""
        raise NotImplementedError

    def mapping(self, z: Tensor) -> Tensor:
        """`z [N,z_dim]` → `w [N,w_dim]`."""
        w: Tensor = self.mapping_network(z)
        return w

    def spread(self, w: Tensor) -> Tensor:
        """`w [N,w_dim]` at every layer: w+ `[N,num_ws,w_dim]`; w+ stays as it is."""
        return w.unsqueeze(1).expand(-1, self.num_ws, -1) if w.ndim == 2 else w

    def synthesis(self, w: Tensor) -> Tensor:
        """`w [N,w_dim]` or `w+ [N,num_ws,w_dim]` → images `[N,3,R,R]`, about [-1, 1]."""
        return self.draw(self.spread(w))

    def forward(self, z: Tensor) -> Tensor:
        """`z [N,z_dim]` → images `[N,3,R,R]`."""
        return self.synthesis(self.mapping(z))
