"""Reconstruction: stage one with the face as its own donor. It keeps the identity.

Not a protection. It is what the adversarial mapping starts from, and Table 3 measures it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deid.anonymize.invert import invert
from deid.model import Deidentifier
from deid.nets.backbones import at_size


@dataclass(frozen=True)
class Reconstruction:
    """I_out = G(M([En_id(I), En_expr(I)])), or after `steps` of inversion (`invert`) from there,
    into w where `single`, else w+."""

    model: Deidentifier
    resolution: int | None
    steps: int = 0
    name: str = "reconstruction"
    single: bool = False
    enough: int | None = None

    @torch.no_grad()
    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """`[N,3,R,R]` → the same shape; seeds play no part."""
        side = faces.shape[-1]
        if not self.steps:
            return at_size(self.model.reconstruct(faces), side)
        w = invert(self.model, faces, self.steps, self.single)
        return at_size(self.model.synthesize(w, side), side).clamp(-1.0, 1.0)
