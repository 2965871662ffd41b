"""The adversarial mapping (section 3.2): the same person to a friend, another to a machine."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deid.model import Deidentifier


@dataclass(frozen=True)
class Adversarial:
    """I_adv = G(Clip_δ(M_adv(w), w)), equations (9)–(12)."""

    model: Deidentifier
    resolution: int | None
    name: str = "adversarial"

    @torch.no_grad()
    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """`[N,3,R,R]` → the same shape; seeds play no part."""
        return self.model.adversarial(faces)
