"""An opaque mask: the one method that leaves nothing of the face, and the last resort."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NEUTRAL = 0.0  # mid-gray: not the face's own mean color, which would tell its skin


@dataclass(frozen=True)
class Mask:
    """Fills the crop with one color that is the same for everybody."""

    name: str = "mask"
    resolution: int | None = None
    enough: int | None = None

    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """`[N,3,H,W]` → the same shape; seeds play no part."""
        return torch.full_like(faces, NEUTRAL)
