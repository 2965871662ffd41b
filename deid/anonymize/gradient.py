"""FGSM and PGD against the identity encoder: the noise attacks the paper compares with.

Both are untargeted: they lower the cosine between En_id of the original and of the output,
equation (9), inside the L∞ ball |output − original| ≤ ε. ε counts in the full intensity range
[0, 1], as in the paper; tensors here are in [-1, 1], twice as wide.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deid.seeds import torch_generator
from deid.worlds.world import FaceEmbedder

RANGE = 2.0  # width of [-1, 1]


@dataclass(frozen=True)
class FGSM:
    """One step along the sign of the gradient (Goodfellow et al. 2015).

    The cosine of a picture with itself is at its maximum, where the gradient vanishes. So the
    gradient is taken at a seeded random point inside the ε ball (as in R+FGSM, Tramèr et al.
    2018), and the full step ε is made from the original.
    """

    identity: FaceEmbedder
    epsilon: float
    name: str = "fgsm"
    resolution: int | None = None
    enough: int | None = None

    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """`[N,3,H,W]` in [-1, 1] → the same, no value moved by more than 2ε."""
        radius = RANGE * self.epsilon
        point = _random_start(faces, seeds, radius)
        gradient = _cosine_gradient(self.identity, point, _embed(self.identity, faces))
        return (faces - radius * gradient.sign()).clamp(-1.0, 1.0)


@dataclass(frozen=True)
class PGD:
    """Projected gradient descent from a random start (Madry et al. 2018), step 2.5 ε / steps."""

    identity: FaceEmbedder
    epsilon: float
    steps: int
    name: str = "pgd"
    resolution: int | None = None
    enough: int | None = None

    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """`[N,3,H,W]` in [-1, 1] → the same, no value moved by more than 2ε."""
        radius = RANGE * self.epsilon
        original = _embed(self.identity, faces)
        low, high = (faces - radius).clamp_min(-1.0), (faces + radius).clamp_max(1.0)
        output = _random_start(faces, seeds, radius)
        for _ in range(self.steps):
            gradient = _cosine_gradient(self.identity, output, original)
            output = output - (2.5 * radius / self.steps) * gradient.sign()
            output = torch.minimum(torch.maximum(output, low), high)
        return output


def _random_start(faces: Tensor, seeds: Sequence[int], radius: float) -> Tensor:
    noise = torch.stack(
        [torch.rand(faces.shape[1:], generator=torch_generator("gradient", 0, s)) for s in seeds]
    ).to(faces)
    return (faces + radius * (2.0 * noise - 1.0)).clamp(-1.0, 1.0)


def _embed(identity: FaceEmbedder, faces: Tensor) -> Tensor:
    with torch.no_grad():
        return identity(faces)


def _cosine_gradient(identity: FaceEmbedder, faces: Tensor, original: Tensor) -> Tensor:
    # The sum over the batch has each face's own gradient, since the faces do not interact.
    with torch.enable_grad():
        point = faces.detach().requires_grad_()
        similarity = (identity(point) * original).sum()
        (gradient,) = torch.autograd.grad(similarity, point)
    return gradient
