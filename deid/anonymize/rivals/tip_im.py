"""TIP-IM (Yang, Dong, Pang, Su, Zhu, Chen and Xue 2021): the targeted identity-protection iterative
method. A mask of noise makes a face be taken for one of several targets, whichever goes best.

Section 3 of the paper and its code, f a recognizer, D the squared distance of features, I targets:

    min_x*  D(f(x*), f(t)) − D(f(x*), f(x)) + γ · MMD²(x*, x)    with ‖x* − x‖∞ ≤ ε
    g ← μ g + ∇ / ‖∇‖₁,   x* ← Π_ε(x* − a · sign(g)),   μ = 1, a = 1.5 ε / steps
    t = argmax_{t∈I} log(1 + max_{j∈I} exp(‖f(x*_t) − f(x)‖ − ‖f(x*_t) − f(j)‖)),

x*_t what the step towards t would give; the gradient is taken with input diversity. MMD's kernel is
a sum of Gaussians, of 2σ² from 2e-6 to 2e6 in squared gray levels.

Departures. f is En_id alone, as in their white-box case. Targets are ten strangers of the world's
bank, by the face's seed. The paper takes MMD between a batch of faces and the batch of their
masks; here a face may not depend on others, so a batch is one face, which is their code's default.
t is searched every `SEARCH` steps and kept between (they: every step), of `STEPS` (they: 100). γ is
not 0, their code's default, but 0.1; MMD has no part in the search (in their code it has). Steps go
by the sign, as in the paper; their code does so for L∞, and goes by L2 unless asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from deid.anonymize.refine import one_by_one
from deid.anonymize.strangers import Strangers
from deid.diversity import diversify, draw_changes
from deid.seeds import torch_generator
from deid.worlds.world import World

EPSILON = 12 / 255  # of the full range, L∞
STEPS, SEARCH = 30, 10
TARGETS = 10
GAMMA = 0.1
LEVELS = 127.5
"""Gray levels in a unit of a picture in [-1, 1]."""

SIGMAS = (
    *(1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0),
    *(1e2, 1e3, 1e4, 1e5, 1e6),
)


@dataclass(frozen=True)
class TIPIM:
    """A mask for each face, towards the best of the targets of its seed."""

    world: World
    epsilon: float = EPSILON
    gamma: float = GAMMA
    steps: int = STEPS
    name: str = "tipim"
    resolution: int | None = None
    enough: int | None = None

    @cached_property
    def strangers(self) -> Strangers:
        return Strangers(self.world)

    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """`[N,3,H,W]` in [-1, 1] → the same, no value moved by more than 2ε."""
        return one_by_one(
            lambda face, seed: self._mask(face, int(seed)), faces, torch.tensor(seeds)
        )

    def _mask(self, face: Tensor, seed: int) -> Tensor:
        targets = self.strangers.some(TARGETS, seed)
        with torch.no_grad():
            known = self.world.identity(face)
        output, momentum, chosen = face, torch.zeros_like(face), targets[:1]
        for step in range(self.steps):
            changes = draw_changes(1, torch_generator("tip-im/diversity", step, seed))
            if step % SEARCH == 0:
                tried = []
                for target in torch.split(targets, 1):
                    gradient = self._gradient(output, face, known, target, changes, 0.0)
                    tried.append(self._step(output, face, momentum + gradient))
                gains = self._gains(torch.cat(tried), known, targets)
                chosen = targets[gains.argmax()][None]
            gradient = self._gradient(output, face, known, chosen, changes, self.gamma)
            momentum = momentum + gradient
            output = self._step(output, face, momentum)
        return output

    def _gradient(
        self,
        point: Tensor,
        face: Tensor,
        known: Tensor,
        target: Tensor,
        changes: Tensor,
        gamma: float,
    ) -> Tensor:
        """Of the objective at `point`, of mean absolute value 1."""
        with torch.enable_grad():
            point = point.detach().requires_grad_()
            code = self.world.identity(diversify(point, changes))
            loss = (code - target).square().sum() - (code - known).square().sum()
            loss = loss + gamma * mmd(point, face)
            (gradient,) = torch.autograd.grad(loss, point)
        return gradient / gradient.abs().mean().clamp_min(1e-12)

    def _step(self, point: Tensor, face: Tensor, direction: Tensor) -> Tensor:
        radius = 2.0 * self.epsilon
        moved = point - 1.5 * radius / self.steps * direction.sign()
        return torch.minimum(torch.maximum(moved, face - radius), face + radius).clamp(-1.0, 1.0)

    @torch.no_grad()
    def _gains(self, tried: Tensor, known: Tensor, targets: Tensor) -> Tensor:
        """How much is gained by each picture `[I,3,H,W]`, `[I]`."""
        codes = torch.cat([self.world.identity(one) for one in torch.split(tried, 1)])
        away = (codes - known).norm(dim=1, keepdim=True)
        near = (codes[:, None] - targets[None]).norm(dim=2)
        return torch.log(1.0 + (away - near).exp().amax(1))


def mmd(a: Tensor, b: Tensor) -> Tensor:
    """MMD² between one picture `[1,3,H,W]` and another, in [-1, 1]: 0 for equal ones."""
    square = ((a - b) * LEVELS).square().sum()
    beta = 1.0 / (2.0 * torch.tensor(SIGMAS, device=a.device))
    return 2.0 * (1.0 - torch.exp(-beta * square)).sum()
