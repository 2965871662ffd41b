"""ALAE (Pidhorskyi et al. 2020): pictures through the w of an adversarial latent autoencoder.

E maps a picture to w, G draws w; both are trained by `deid.training.rivals.alae`, whose docstring
has the equations. `reconstruct` is G(E(x)).

`swap` mixes styles as their section 5.3 does with real pictures: E of both faces, the donor's w in
some layers of G and the face's in the others. Yang et al. do not say which layers they took for
their tables 2 and 3. Here the face keeps `POSE_LAYERS`, and the donor has the others.

An anonymization is a swap; its donor is a stranger of the generator, by the face's seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from deid.anonymize.rivals.learned import SIDE, Lenders, small
from deid.nets.alae import LAYERS, Autoencoder
from deid.nets.backbones import at_size
from deid.worlds.world import World

POSE_LAYERS = 2
"""The coarsest of G, those of 4²: pose and the shape of the head."""


@dataclass(frozen=True)
class ALAE:
    """`network` was trained in `world`."""

    world: World
    network: Autoencoder
    name: str = "alae"
    resolution: int | None = None
    enough: int | None = SIDE

    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """`[N,3,R,R]` → the same shape; seeds choose donors."""
        return self.swap(self.lenders.for_faces(faces, seeds), faces)

    @torch.no_grad()
    def swap(self, donors: Tensor, faces: Tensor) -> Tensor:
        """Pose of `faces`, all else of `donors`, `[N,3,R,R]`."""
        theirs, own = (
            self.network.encode(small(pictures))[:, None] for pictures in (donors, faces)
        )
        kept = torch.arange(LAYERS, device=faces.device)[None, :, None] < POSE_LAYERS
        return self._enlarged(torch.where(kept, own, theirs), faces)

    @torch.no_grad()
    def reconstruct(self, faces: Tensor) -> Tensor:
        """G(E(x)), `[N,3,R,R]`."""
        return self._enlarged(self.network.encode(small(faces)), faces)

    def _enlarged(self, w: Tensor, faces: Tensor) -> Tensor:
        return at_size(self.network.decode(w), faces.shape[-1]).clamp(-1.0, 1.0)

    @cached_property
    def lenders(self) -> Lenders:
        """Whose faces are given."""
        return Lenders(self.world)
