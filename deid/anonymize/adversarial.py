"""The adversarial mapping (section 3.2): the same person to a friend, another to a machine."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deid.anonymize.invert import invert
from deid.model import Deidentifier
from deid.nets.backbones import at_size


@dataclass(frozen=True)
class Adversarial:
    """I_adv = G(Clip_δ(M_adv(w), w)), equations (9)–(12).

    With `steps`, M_adv's way starts from as many steps of inversion (`invert`) and not from M's
    answer, which is alike but not the person. A `stretch` above 1 goes that much further than M_adv
    did, and than its δ: more protection, and less likeness to the eye.
    """

    model: Deidentifier
    resolution: int | None
    stretch: float = 1.0
    steps: int = 0
    name: str = "adversarial"
    enough: int | None = None

    @torch.no_grad()
    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """`[N,3,R,R]` → the same shape; seeds play no part."""
        w = self.model.latent(faces, faces)
        way = self.stretch * (self.model.adversarial_latent(w) - w)
        if self.steps:
            w, way = invert(self.model, faces, self.steps), way[:, None]
        drawn = self.model.synthesize(w + way, faces.shape[-1])
        return at_size(drawn, faces.shape[-1]).clamp(-1.0, 1.0)
