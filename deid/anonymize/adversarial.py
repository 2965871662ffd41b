"""The adversarial mapping (section 3.2): the same person to a friend, another to a machine."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deid.model import Deidentifier
from deid.nets.backbones import at_size


@dataclass(frozen=True)
class Adversarial:
    """I_adv = G(Clip_δ(M_adv(w), w)), equations (9)–(12).

    A `stretch` above 1 goes that much further than M_adv did, and than its δ: more protection, and
    less likeness to the eye.
    """

    model: Deidentifier
    resolution: int | None
    stretch: float = 1.0
    name: str = "adversarial"
    enough: int | None = None

    @torch.no_grad()
    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """`[N,3,R,R]` → the same shape; seeds play no part."""
        if self.stretch == 1.0:
            return at_size(self.model.adversarial(faces), faces.shape[-1])
        w = self.model.latent(faces, faces)
        further = w + self.stretch * (self.model.adversarial_latent(w) - w)
        drawn = self.model.synthesize(further, faces.shape[-1])
        return at_size(drawn, faces.shape[-1]).clamp(-1.0, 1.0)
