"""The adversarial mapping (section 3.2): the same person to a friend, another to a machine."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deid.anonymize.invert import invert
from deid.anonymize.steering import Steering
from deid.model import Deidentifier
from deid.nets.backbones import at_size

HALVINGS = 4
"""Of the part of a way that may be gone: it is met to a sixteenth of the way."""


@dataclass(frozen=True)
class Adversarial:
    """I_adv = G(Clip_δ(M_adv(w), w)), equations (9)–(12).

    With `steps`, M_adv's way starts from as many steps of inversion (`invert`) and not from M's
    answer, which is alike but not the person. A `stretch` above 1 goes that much further than M_adv
    did, and than its δ: more protection, and less likeness to the eye. With a `farthest`, no
    further than that perceptual distance (`World.perceptual`) from what is drawn where it starts.
    Without steps, w is then led (`steering`) to where somebody of the person's age, sex and skin is
    drawn, at whatever strength, who looks to the same side: recognizers are fooled most easily by
    people of other looks, which friends see at once.
    """

    model: Deidentifier
    resolution: int | None
    steering: Steering
    stretch: float = 1.0
    steps: int = 0
    farthest: float | None = None
    name: str = "adversarial"
    enough: int | None = None

    @torch.no_grad()
    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """`[N,3,R,R]` → the same shape; seeds play no part."""
        w = self.model.latent(faces, faces)
        way = self.stretch * (self.model.adversarial_latent(w) - w)
        if self.steps:
            w, way = invert(self.model, faces, self.steps), way[:, None]
        if self.farthest is not None:
            way = self._shortened(w, way, self.farthest)
        w = w + way
        if not self.steps:
            w = self.steering(w, self.steering.aim(faces, faces))
        drawn = self.model.synthesize(w, faces.shape[-1])
        return at_size(drawn, faces.shape[-1]).clamp(-1.0, 1.0)

    def _shortened(self, w: Tensor, way: Tensor, farthest: float) -> Tensor:
        """As much of each way from w as leads no further than `farthest`: all of it, or what
        halving finds. Drawn at the smallest side of the generator."""
        side = self.model.world.resolutions[0]
        start = self.model.synthesize(w, side)

        def part(share: Tensor) -> Tensor:
            return share.reshape(-1, *[1] * (way.ndim - 1)) * way

        def within(share: Tensor) -> Tensor:
            drawn = self.model.synthesize(w + part(share), side)
            return self.model.world.perceptual.distance(start, drawn) <= farthest

        share = w.new_ones(len(w))
        free = within(share)
        if free.all():
            return way
        least, most = share * free, share.clone()
        for _ in range(HALVINGS):
            share = (least + most) / 2
            kept = within(share)
            least, most = torch.where(kept, share, least), torch.where(kept, most, share)
        return part(least)
