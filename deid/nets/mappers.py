"""The small networks on latent vectors: M, M_adv and D_W.

All see w standardized by the mean and deviation of the generator's own w, so that widths, learning
rates and δ mean the same in every world.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

SLOPE = 0.2
"""Of the leaky ReLUs."""


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers of these widths with leaky ReLUs between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        linear = nn.Linear(inputs, outputs)
        nn.init.kaiming_normal_(linear.weight, SLOPE)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers[:-1])


class Mapping(nn.Module):
    """M: a four-layer MLP from z `[N,z_dim]` to standardized w `[N,w_dim]`.

    `hidden` are the three hidden widths; Nitzan et al. 2020 use 2048, 1024, 512.
    """

    def __init__(self, z_dim: int, hidden: Sequence[int], w_dim: int) -> None:
        super().__init__()
        self.layers = mlp([z_dim, *hidden, w_dim])
        with torch.no_grad():  # begin near the mean w, where the generator draws a face
            cast(nn.Linear, self.layers[-1]).weight.mul_(0.3)

    def forward(self, z: Tensor) -> Tensor:
        w: Tensor = self.layers(z)
        return w


class AdversarialMapping(nn.Module):
    """M_adv: a four-layer MLP from standardized w `[N,w_dim]` to w_adv, within Clip_δ of w.

    The last layer begins at zero, so that training starts from w_adv = w.
    """

    def __init__(self, w_dim: int, hidden: Sequence[int], delta: float) -> None:
        super().__init__()
        self.delta = delta
        self.layers = mlp([w_dim, *hidden, w_dim])
        nn.init.zeros_(cast(nn.Linear, self.layers[-1]).weight)

    def forward(self, w: Tensor) -> Tensor:
        return clip_delta(w + self.layers(w), w, self.delta)


class LatentDiscriminator(nn.Module):
    """D_W: standardized w `[N,w_dim]` → logit `[N]` of being a w of the generator."""

    def __init__(self, w_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.layers = mlp([w_dim, *hidden, 1])

    def forward(self, w: Tensor) -> Tensor:
        logits: Tensor = self.layers(w)
        return logits[:, 0]


class _Clip(torch.autograd.Function):
    """A clamp to [-δ, δ] whose gradient vanishes only where a step would lead further out."""

    @staticmethod
    def forward(ctx: Any, offset: Tensor, delta: float) -> Tensor:
        ctx.save_for_backward(offset)
        ctx.delta = delta
        return offset.clamp(-delta, delta)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (offset,), (gradient,) = ctx.saved_tensors, gradients
        outwards = (offset.abs() > ctx.delta) & (offset * gradient < 0)
        return gradient.masked_fill(outwards, 0.0), None


def clip_delta(w_adv: Tensor, w: Tensor, delta: float) -> Tensor:
    """Equation (10), Clip_δ(w_adv, w): each component of w_adv within δ deviations of w's.

    Both are standardized. A component beyond δ still learns to come back: a plain clamp would
    leave it there for ever.
    """
    return w + cast(Tensor, _Clip.apply(w_adv - w, delta))
