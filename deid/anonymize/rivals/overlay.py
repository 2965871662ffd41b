"""What patch, glasses and hat share: colors of a given region are optimized, nothing else changes.

For a region m (1 inside) and its colors p, f a recognizer, T a random change as a camera would
bring (expectation over transformations, Athalye et al. 2018):

    x' = (1 − m) · x + m · p,      min_p  E_T[cos(f(T(x')), f(x))] + κ · TV(p)
    TV(p) = Σ √((p_{i,j} − p_{i+1,j})² + (p_{i,j} − p_{i,j+1})²)    (Sharif et al. 2016, eq. 3)

**Digital only.** Nothing was printed, worn or photographed: there is no non-printability score, no
bending of a sticker, no light on it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deid.anonymize.descent import Descent
from deid.anonymize.refine import one_by_one
from deid.diversity import diversify, draw_changes
from deid.faces.alignment import Points
from deid.seeds import torch_generator
from deid.worlds.world import World

STEPS = 40
RATE = 0.05  # of Adam, in [-1, 1]
KAPPA = 0.02  # of the mean of TV over the region

Draw = Callable[[Points, int, int], NDArray[np.uint8]]
"""(landmarks `[68,2]`, height, width) → the region, 0 to 255 `[H,W]`."""


@dataclass(frozen=True)
class Overlay:
    """One of them: `draw` says where it lies."""

    world: World
    name: str
    draw: Draw
    steps: int = STEPS
    resolution: int | None = None
    enough: int | None = None

    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """`[N,3,H,W]` in [-1, 1] → the same, changed only where `draw` says."""

        def one(face: Tensor, seed: Tensor) -> Tensor:
            inside = region(self.world, face, self.draw)
            return _optimized(self.world, face, inside, int(seed), self.steps)

        return one_by_one(one, faces, torch.tensor(seeds))


@torch.no_grad()
def region(world: World, face: Tensor, draw: Draw) -> Tensor:
    """m of a face `[1,3,H,W]`, `[H,W]` in [0, 1]."""
    landmarks = world.landmarks(face)[0].double().cpu().numpy()
    return torch.from_numpy(draw(landmarks, *face.shape[2:])).to(face) / 255.0


def _optimized(world: World, face: Tensor, inside: Tensor, seed: int, steps: int) -> Tensor:
    with torch.no_grad():
        known = world.identity(face)
    random = torch_generator("rivals/overlay", 0, seed)
    start = torch.rand(3, generator=random).to(face)[:, None, None] * 2.0 - 1.0
    with torch.enable_grad():
        colors = start.expand_as(face).clone().requires_grad_()
        descent = Descent(colors, RATE)
        for step in range(steps):
            changes = draw_changes(1, torch_generator("rivals/overlay changes", step, seed))
            seen = diversify(_laid(face, inside, colors), changes)
            likeness = (world.identity(seen) * known).sum()
            descent.step(likeness + KAPPA * variation(colors, inside))
            with torch.no_grad():
                colors.clamp_(-1.0, 1.0)
    return _laid(face, inside, colors.detach())


def _laid(face: Tensor, inside: Tensor, colors: Tensor) -> Tensor:
    return torch.where(inside > 0, (1.0 - inside) * face + inside * colors, face)


def variation(colors: Tensor, inside: Tensor) -> Tensor:
    """TV of colors `[1,3,H,W]` within a region `[H,W]`, a pixel's mean."""
    down = colors.diff(dim=2)[..., :, :-1].square()
    right = colors.diff(dim=3)[..., :-1, :].square()
    weight = inside[:-1, :-1]
    length = (down + right + 1e-8).sqrt() * weight
    return length.sum() / (3.0 * weight.sum().clamp_min(1.0))
