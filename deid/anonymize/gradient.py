"""FGSM, PGD, MI-FGSM and TI-DIM against the identity encoder: the noise attacks the paper compares
with, and stronger ones.

All are untargeted: they lower the cosine between En_id of the original and of the output, equation
(9), inside the L∞ ball |output − original| ≤ ε, and take their gradient with input diversity, as
the adversarial mapping does in its training. Where that learns from an ensemble, they attack the
same one (`Together`). ε counts in the full intensity range [0, 1], as in the paper; tensors here
are in [-1, 1], twice as wide.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deid.diversity import diversify, draw_changes
from deid.seeds import torch_generator
from deid.worlds.world import FaceEmbedder

RANGE = 2.0  # width of [-1, 1]


class Together:
    """Recognizers as one (`FaceEmbedder`), whose dot product is the mean of their cosines."""

    def __init__(self, recognizers: Sequence[FaceEmbedder]) -> None:
        self.recognizers = recognizers
        self.dim = sum(recognizer.dim for recognizer in recognizers)

    def __call__(self, images: Tensor) -> Tensor:
        codes = [recognizer(images) for recognizer in self.recognizers]
        return codes[0] if len(codes) == 1 else torch.cat(codes, 1) / len(codes) ** 0.5


@dataclass(frozen=True)
class FGSM:
    """One step of ε along the sign of the gradient at the face (Goodfellow et al. 2015).

    The cosine of a face with itself is at its maximum, where the gradient vanishes; that of the
    face changed by input diversity is not.
    """

    identity: FaceEmbedder
    epsilon: float
    name: str = "fgsm"
    resolution: int | None = None
    enough: int | None = None

    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """`[N,3,H,W]` in [-1, 1] → the same, no value moved by more than 2ε."""
        attack = _Attack(self.identity, faces, seeds, RANGE * self.epsilon)
        return attack.inside(faces - attack.radius * attack.gradient(faces, 0).sign())


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
        attack = _Attack(self.identity, faces, seeds, RANGE * self.epsilon)
        output, length = attack.random_start(), 2.5 * attack.radius / self.steps
        for step in range(self.steps):
            output = attack.inside(output - length * attack.gradient(output, step).sign())
        return output


@dataclass(frozen=True)
class MIFGSM:
    """Momentum iterative FGSM (Dong et al. 2018), decay 1, step ε / steps: the gradients of all
    steps so far, each of L1 norm 1, give the direction, which transfers better than the last.

    With `smooth`, TI-DIM (Dong et al. 2019): the gradients are blurred, so that the noise fools
    recognizers who see the face elsewhere, too.
    """

    identity: FaceEmbedder
    epsilon: float
    steps: int
    smooth: bool = False
    name: str = "mifgsm"
    resolution: int | None = None
    enough: int | None = None

    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """`[N,3,H,W]` in [-1, 1] → the same, no value moved by more than 2ε."""
        attack = _Attack(self.identity, faces, seeds, RANGE * self.epsilon)
        output, momentum = faces, torch.zeros_like(faces)
        for step in range(self.steps):
            gradient = attack.gradient(output, step)
            if self.smooth:
                gradient = _blurred(gradient)
            norm = gradient.abs().sum((1, 2, 3), keepdim=True).clamp_min(1e-12)
            momentum = momentum + gradient / norm
            output = attack.inside(output - attack.radius / self.steps * momentum.sign())
        return output


def _blurred(gradient: Tensor) -> Tensor:
    """By a Gaussian kernel of three deviations to either side, a twentieth of the picture wide: 15
    of 299 pixels, as published."""
    from torchvision.transforms.v2.functional import gaussian_blur  # a second, of every start

    width = max(5, round(gradient.shape[-1] / 20) // 2 * 2 + 1)
    blurred: Tensor = gaussian_blur(gradient, [width, width], [(width - 1) / 6] * 2)
    return blurred


class _Attack:
    """What the attacks share: `faces` and seeds, the encoder, and the ball of `radius`."""

    def __init__(
        self, identity: FaceEmbedder, faces: Tensor, seeds: Sequence[int], radius: float
    ) -> None:
        self.identity, self.faces, self.seeds, self.radius = identity, faces, seeds, radius
        with torch.no_grad():
            self.original = identity(faces)

    def gradient(self, point: Tensor, step: int) -> Tensor:
        """Of the cosine between the original and `point` as input diversity changes it."""
        changes = torch.cat(
            [draw_changes(1, torch_generator("gradient/diversity", step, s)) for s in self.seeds], 1
        )
        # The sum over the batch has each face's own gradient, since the faces do not interact.
        with torch.enable_grad():
            point = point.detach().requires_grad_()
            similarity = (self.identity(diversify(point, changes)) * self.original).sum()
            (gradient,) = torch.autograd.grad(similarity, point)
        return gradient

    def inside(self, point: Tensor) -> Tensor:
        """The nearest picture in the ball."""
        low, high = self.faces - self.radius, self.faces + self.radius
        return torch.minimum(torch.maximum(point, low), high).clamp(-1.0, 1.0)

    def random_start(self) -> Tensor:
        """A point of the ball, uniform, by each face's seed."""
        shape = self.faces.shape[1:]
        noise = torch.stack(
            [torch.rand(shape, generator=torch_generator("gradient", 0, s)) for s in self.seeds]
        ).to(self.faces)
        return self.inside(self.faces + self.radius * (2.0 * noise - 1.0))
