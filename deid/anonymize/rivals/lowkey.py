"""LowKey (Cherepanova, Goldblum, Foley, Duan, Dickerson, Taylor and Goldstein 2021): a cloak that
moves a face's features away in several networks at once, sharp and blurred.

Equation (1) of the paper, for n networks f_i, G a Gaussian blur, A alignment:

    max_x'  1/(2n) Σ_i ( ‖f_i(A(x)) − f_i(A(x'))‖² + ‖f_i(A(x)) − f_i(A(G(x')))‖² ) / ‖f_i(A(x))‖²
            − α · LPIPS(x, x')

by steps along the gradient's sign. α 0.05, steps of 0.0025 of the full range, G of 7 pixels with
σ 3 on faces of 112.

Departures. The ensemble is what a world trains with, since a second recognizer would be one of the
judges: En_id and the trunk of En_expr (mini: a face network; photo and ffhq: a network of pictures
in general), where theirs were four recognizers. A is nothing, faces come aligned. LPIPS is the
world's perceptual distance, whose unit is not LPIPS's. G's σ is a share of the side (3 / 112).
Thirty steps, not fifty.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deid.anonymize.refine import one_by_one
from deid.worlds.world import World

STEPS = 30
LENGTH = 0.0025  # of a step, in the full range of intensity
ALPHA = 0.05
SIGMA = 3 / 112  # of G, in sides


@dataclass(frozen=True)
class LowKey:
    """No value moves by more than `steps` × `LENGTH` of the full range."""

    world: World
    alpha: float = ALPHA
    steps: int = STEPS
    name: str = "lowkey"
    resolution: int | None = None
    enough: int | None = None

    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """`[N,3,H,W]` in [-1, 1] → the same; seeds play no part."""
        return one_by_one(self._cloak, faces)

    @property
    def ensemble(self) -> tuple[Callable[[Tensor], Tensor], ...]:
        """The networks that are attacked: images → `[N,dim]`."""
        return self.world.identity, self.world.expression_trunk

    def _cloak(self, face: Tensor) -> Tensor:
        with torch.no_grad():
            known = [network(face) for network in self.ensemble]
        output = face
        for _ in range(self.steps):
            with torch.enable_grad():
                point = output.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(self._objective(point, face, known), point)
            output = (output + 2.0 * LENGTH * gradient.sign()).clamp(-1.0, 1.0)
        return output

    def _objective(self, point: Tensor, face: Tensor, known: Sequence[Tensor]) -> Tensor:
        smooth, total = blurred(point), point.new_zeros(())
        for network, code in zip(self.ensemble, known, strict=True):
            far = sum((network(seen) - code).square().sum() for seen in (point, smooth))
            total = total + far / code.square().sum()
        likeness = self.world.perceptual.distance(face, point).sum()
        return total / (2 * len(known)) - self.alpha * likeness


def blurred(images: Tensor) -> Tensor:
    """G: by a Gaussian of `SIGMA` sides, of a little more than a deviation to either side, as
    published."""
    from torchvision.transforms.v2.functional import gaussian_blur  # a second, of every start

    sigma = SIGMA * images.shape[-1]
    width = 2 * max(1, round(sigma)) + 1
    blurred: Tensor = gaussian_blur(images, [width, width], [sigma, sigma])
    return blurred
