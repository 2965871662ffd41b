"""Fawkes (Shan, Wenger, Zhang, Li, Zheng and Zhao 2020): a cloak that moves a face's features
towards somebody else's, under a budget of structural dissimilarity.

Equations (2) and (4) of the paper, Φ a feature extractor, T the target person:

    min_δ  Dist(Φ(x_T), Φ(x ⊕ δ)) + λ · max(DSSIM(x, x ⊕ δ) − ρ, 0)
    T = argmax_{k = 1…K} Dist(Φ(x), C_k)          of K candidates, the farthest from x
    DSSIM(a, b) = (1 − SSIM(a, b)) / 2

with Dist Euclidean and x ⊕ δ = tanh(arctanh(x) + δ), as in their code.

Departures. Φ is En_id alone; theirs were one or two of six recognizers. Candidates are strangers of
the world's bank, by the face's seed, and their codes are known, so x_T is no picture. The budget is
a bound: what exceeds ρ at the end is shrunk to it. `STEPS` of Adam where they take up to 1,000
(Adadelta in their code). A cloak is meant to poison the *training* of a stranger's
recognizer; here it is judged as an evasion, as all other methods are, which it was not made for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from deid.anonymize.descent import Descent
from deid.anonymize.refine import one_by_one
from deid.anonymize.strangers import Strangers
from deid.worlds.world import World

BUDGET = 0.007
"""ρ of the paper."""

STEPS = 40
RATE = 0.03  # of Adam, in arctanh of [-1, 1]
CANDIDATES = 20
PENALTY = 300.0
"""λ: a DSSIM of ρ above the budget costs 2, as much as features can gain."""

HALVINGS = 10

INSIDE = 0.999  # of [-1, 1], so that arctanh ends


@dataclass(frozen=True)
class Fawkes:
    """A cloak for each face towards the farthest of `CANDIDATES` strangers of its seed."""

    world: World
    budget: float = BUDGET
    steps: int = STEPS
    name: str = "fawkes"
    resolution: int | None = None
    enough: int | None = None

    @cached_property
    def strangers(self) -> Strangers:
        return Strangers(self.world)

    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """`[N,3,H,W]` in [-1, 1] → the same, with DSSIM at most `budget`."""
        return one_by_one(
            lambda face, seed: self._cloak(face, int(seed)), faces, torch.tensor(seeds)
        )

    def target(self, face: Tensor, seed: int) -> Tensor:
        """En_id's code `[1,dim]` of the candidate farthest from a face `[1,3,H,W]`."""
        candidates = self.strangers.some(CANDIDATES, seed)
        with torch.no_grad():
            nearest = candidates @ self.world.identity(face)[0]
        return candidates[nearest.argmin()][None]

    def _cloak(self, face: Tensor, seed: int) -> Tensor:
        target, start = self.target(face, seed), torch.atanh(face * INSIDE)

        def cloaked(moved: Tensor) -> Tensor:
            return torch.tanh(start + moved) / INSIDE

        with torch.enable_grad():
            moved = torch.zeros_like(face, requires_grad=True)
            descent = Descent(moved, RATE)
            for _ in range(self.steps):
                output = cloaked(moved)
                over = (dssim(face, output)[0] - self.budget).clamp_min(0.0)
                descent.step((self.world.identity(output) - target).norm() + PENALTY * over)
        return self._within(face, lambda share: cloaked(share * moved.detach()))

    def _within(self, face: Tensor, cloaked: Callable[[float], Tensor]) -> Tensor:
        """The greatest share of a cloak that the budget allows."""
        low, high = 0.0, 1.0
        if float(dssim(face, cloaked(high))[0]) <= self.budget:
            return cloaked(high)
        for _ in range(HALVINGS):
            share = (low + high) / 2.0
            within = float(dssim(face, cloaked(share))[0]) <= self.budget
            low, high = (share, high) if within else (low, share)
        return cloaked(low)


def dssim(a: Tensor, b: Tensor) -> Tensor:
    """(1 − SSIM) / 2 of each pair of `[N,3,H,W]` in [-1, 1], `[N]` in [0, 1]: Wang et al. 2004,
    Gaussian windows of 11 × 11 with σ 1.5, mirrored at the border."""
    from torchvision.transforms.v2.functional import gaussian_blur  # a second, of every start

    c1, c2 = (0.01 * 2.0) ** 2, (0.03 * 2.0) ** 2  # the range of values is 2
    stack = torch.cat([a, b, a * b, a * a + b * b], 1)
    mean_a, mean_b, product, squares = gaussian_blur(stack, [11, 11], [1.5, 1.5]).chunk(4, 1)
    together = product - mean_a * mean_b
    apart = squares - mean_a**2 - mean_b**2
    light = (2.0 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    ssim = light * (2.0 * together + c2) / (apart + c2)
    apart_by: Tensor = (1.0 - ssim.mean((1, 2, 3))) / 2.0
    return apart_by
