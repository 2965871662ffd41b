"""Leads w to where the face it draws looks as the person's does: to that side, and of that age."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deid.faces.alignment import Points
from deid.model import Deidentifier
from deid.nets.backbones import at_size
from deid.worlds.world import World

TURNED = 20.0
"""Degrees from looking ahead beyond which a new head is turned as the person's: M turns it too
little, and the rest would be left to a warp, which distorts."""

SMALL = 128
"""The side at which faces are drawn to be looked at."""


@dataclass(frozen=True)
class Aim:
    """What N drawn faces are to be like: `landmarks [N,68,2]`, in sides of the picture, where a
    head is `turned [N]`, and `looks [N,K]`, if any count."""

    landmarks: Points | None
    turned: NDArray[np.bool_]
    looks: Tensor | None


@dataclass(frozen=True)
class Steering:
    """A step of w each, where the world knows how (`HeadTurns`, `LooksShifts`): M turns heads but
    in part, and draws nobody much over forty. Heads are turned where they look far from ahead, or
    all, `turning`; of the looks, those of `columns` are led."""

    world: World
    model: Deidentifier
    turning: bool
    columns: Sequence[int]

    @property
    def leads(self) -> bool:
        """Whether faces are led to anybody's looks."""
        measured = self.world.shifts is not None and self.world.looks is not None
        return measured and bool(self.columns)

    def aim(self, shown: Tensor, people: Tensor, looks: Tensor | None = None) -> Aim:
        """For faces that look where those `shown [N,3,R,R]` do, and like the `people [N,3,R,R]`, of
        whom one may know the `looks [N,K]`."""
        landmarks, turned = None, np.full(len(shown), False)
        if self.world.turns is not None:
            landmarks = landmarks_of(self.world, shown)
            turned = self.turning | (self.world.turns.angles(landmarks) > TURNED)
        wanted = self.wanted(people) if looks is None else looks
        return Aim(landmarks, turned, wanted if self.leads else None)

    def wanted(self, people: Tensor) -> Tensor | None:
        """Looks `[N,K]` to which the new faces of `people [N,3,R,R]` are led, if any are."""
        return self.world.looks(people) if self.leads and self.world.looks else None

    def __call__(self, w: Tensor, aim: Aim) -> Tensor:
        """`[N,w_dim]` → the same shape."""
        led = w.clone()
        if aim.looks is None and not aim.turned.any():
            return led
        drawn = drawn_at(self.model, w, SMALL)
        if aim.turned.any():
            assert self.world.turns is not None
            assert aim.landmarks is not None
            rows = torch.from_numpy(aim.turned).to(w.device)
            before = landmarks_of(self.world, drawn[rows])
            led[rows] = self.world.turns.turned(w[rows], before, aim.landmarks[aim.turned])
        if aim.looks is not None:
            assert self.world.shifts is not None
            assert self.world.looks is not None
            led = self.world.shifts.shifted(led, self.world.looks(drawn), aim.looks, self.columns)
        return led


def drawn_at(model: Deidentifier, w: Tensor, side: int) -> Tensor:
    """G(w) in `[-1, 1]`, `[N,3,side,side]`."""
    return at_size(model.synthesize(w, side).clamp(-1.0, 1.0), side)


def landmarks_of(world: World, faces: Tensor) -> Points:
    """Those of faces `[N,3,S,S]`, in sides of the picture, `[N,68,2]`."""
    return world.landmarks(faces).double().cpu().numpy() / faces.shape[-1]
