"""FSGAN (Nirkin, Keller and Hassner 2019): another person's face, brought to this one's expression,
takes the place of the face and nothing else.

Section 3 of the paper, I_s the donor and I_t the face, p landmarks:

    F_r, S_r = G_r(I_s; H(p(I_t)))            the donor with the face's expression, and where it is
    S_t = G_s(I_t)                            where the face is
    F_c = G_c(F_r ⊗ S_r ⊗ S_t; S_t)           completed where the donor's face does not reach
    Y   = P(I_t; F_c; S_t)                    Poisson blending

Departures. Networks are small and draw at 64 px (`deid.training.rivals.fsgan`); only what is drawn
is enlarged: outside of S_t the picture keeps its own pixels. A donor has one picture, so no views
are interpolated. P is the blending itself, where the paper has a network that learned it. What G_c
gives counts only where nothing of F_r is known.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from deid.anonymize.rivals.learned import SIDE, FaceSwapper, enlarged, small
from deid.anonymize.rivals.poisson import blended
from deid.nets.fsgan import Generators
from deid.worlds.world import World


class FSGAN(FaceSwapper):
    """See `FaceSwapper`."""

    name = "fsgan"

    def __init__(self, world: World, networks: Generators) -> None:
        super().__init__(world)
        self.networks = networks

    @torch.no_grad()
    def swap_one(self, donor: Tensor, face: Tensor) -> Tensor:
        side = face.shape[-1]
        landmarks = self.world.landmarks(face) * (SIDE / side)
        reenacted, found = self.networks.reenact(small(donor), landmarks)
        region = (self.networks.segment(small(face)) > 0).float()
        known = region * (found > 0)
        made = enlarged(self.networks.complete(reenacted, known, region), side)
        return blended(made, face, _region_at(region, side)).clamp(-1.0, 1.0)


def _region_at(region: Tensor, side: int) -> Tensor:
    """`[1,1,64,64]` of 0 and 1 → `[side,side]`, without the picture's rim."""
    wide = F.interpolate(region, size=(side, side), mode="bilinear", align_corners=False) > 0.5
    inside = torch.zeros(side, side, device=region.device)
    inside[1:-1, 1:-1] = wide[0, 0, 1:-1, 1:-1].float()
    return inside
