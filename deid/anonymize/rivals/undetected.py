"""Faces that a detector no longer finds (Bose and Aarabi, "Adversarial attacks on face detectors
using neural net based constrained optimization", 2018).

With x a picture, δ a perturbation and Z_i(x) the logit of a face at place i of the detector's
answer, they look for the least perturbation that leaves no face:

    min_δ  ‖δ‖²   subject to   no face in x + δ
    relaxed (after Carlini and Wagner 2017):  min_δ  ‖δ‖² + λ · Σ_i max(Z_i(x + δ), −κ)

Departures. Theirs trains a small network that makes δ from x, anew for each picture; here δ itself
is optimized. |δ| ≤ ε as well, as in the other noise attacks. The detector is one net over halves of
the picture (`deid.nets.center_net`), where theirs proposes regions; all places count, as a crop
shows one face. White box: it attacks the very detector that the tables ask, so that its "faces
found" says nothing of other detectors. Digital only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deid.anonymize.descent import Descent
from deid.anonymize.refine import one_by_one
from deid.errors import DeidError
from deid.faces.detection.center import MARGIN
from deid.worlds.world import World

EPSILON = 0.1  # of the range of values, as FGSM's
KAPPA = 4.0
LAMBDA = 0.1
"""Of the logits, beside the mean square of δ."""

STEPS, RATE = 60, 0.02
SMALLEST, MULTIPLE = 24, 16
"""The last half that the detector sees, and what sides its net takes, in pixels."""


@runtime_checkable
class SeenThrough(Protocol):
    """A detector whose network may be asked for gradients."""

    net: nn.Module  # [N,3,H,W] → [N,K,H/4,W/4], the first of K the logit of a face


@dataclass(frozen=True)
class Undetected:
    """Noise against the world's own detector."""

    world: World
    name: str = "undetected"
    steps: int = STEPS
    resolution: int | None = None
    enough: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.world.detector, SeenThrough):
            raise DeidError(
                f"method {self.name}: the detector of the world {self.world.name} passes no "
                "gradients; take the world mini"
            )

    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """`[N,3,H,W]` in [-1, 1] → the same, each value moved by ε at most; seeds play no part."""
        detector = self.world.detector
        assert isinstance(detector, SeenThrough)
        net = detector.net
        return one_by_one(lambda face: _hidden(net, face, self.steps), faces)


def _hidden(net: nn.Module, face: Tensor, steps: int) -> Tensor:
    with torch.enable_grad():
        delta = torch.zeros_like(face, requires_grad=True)
        descent = Descent(delta, RATE)
        for _ in range(steps):
            seen = (face + delta).clamp(-1.0, 1.0)
            found = torch.cat([(z + KAPPA).clamp_min(0.0).flatten() for z in logits(net, seen)])
            descent.step(delta.square().mean() + LAMBDA * found.sum())
            with torch.no_grad():
                delta.clamp_(-2.0 * EPSILON, 2.0 * EPSILON)
    return (face + delta.detach()).clamp(-1.0, 1.0)


def logits(net: nn.Module, pictures: Tensor) -> Iterator[Tensor]:
    """Z of pictures `[N,3,H,W]` and of their halves, as `CenterDetector` shows them to its net."""
    height, width = pictures.shape[2:]
    halvings = 0
    while True:
        size = (max(1, round(height / 2**halvings)), max(1, round(width / 2**halvings)))
        if halvings and max(size) < SMALLEST:
            return
        level = F.interpolate(pictures, size=size, mode="area")
        rest = [-(side + 2 * MARGIN) % MULTIPLE for side in size]
        padding = (MARGIN, MARGIN + rest[1], MARGIN, MARGIN + rest[0])
        yield net(F.pad(level, padding, mode="replicate"))[:, 0]
        halvings += 1
