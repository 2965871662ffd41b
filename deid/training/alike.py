"""The way that stage two begins with, and is held to: towards strangers who look like the person.

Led by equation (9) alone, M_adv takes the shortest way to a low cosine, and it ends at one face for
all, of some other descent. Here it learns where a person's w goes when En_id's code is replaced by
the mean of people who are alike (`DonorBank.alike`). No picture is drawn, so a step takes a
fortieth of the time.
"""

from collections.abc import Mapping
from functools import cached_property

import torch
from lightning_fabric import Fabric
from torch import Tensor

from deid.latents.shards import LatentDataset
from deid.losses import latent_loss
from deid.model import Deidentifier
from deid.training.codes import codes_of
from deid.training.loop import batch_rows
from deid.training.processes import local_slice

FACES = 1000
"""Whose codes are computed; of them, every person is given every other's expression."""

BATCH = 256
REACH = 1.6
"""Of the way to the mean of people who are alike, so much is gone: past it, to a stranger."""


class AlikeLoss:
    """A loss of stage two: in its first steps the only one, then one of several."""

    def __init__(
        self, model: Deidentifier, pairs: LatentDataset, fabric: Fabric, seed: int
    ) -> None:
        self.model, self.pairs, self.fabric, self.seed = model, pairs, fabric, seed
        self.faces = min(FACES, len(pairs))

    def __call__(self, index: int) -> Tensor:
        """The distance of M_adv's w from those of strangers who are alike, in batch `index`."""
        rows = batch_rows("stage two/alike", index, self.seed, self.faces, (2, BATCH))
        people, faces = local_slice(rows, self.fabric)
        codes, device = self._codes, self.fabric.device
        own, alike = (codes[name][people].to(device) for name in ("own", "alike"))
        expression = codes["expression"][faces].to(device)
        with torch.no_grad():
            start, end = (
                self.model.mapping(self.model.joined(code, expression)) for code in (own, alike)
            )
        assert self.model.adversarial_mapping is not None
        return latent_loss(start + REACH * (end - start), self.model.adversarial_mapping(start))

    @cached_property
    def _codes(self) -> Mapping[str, Tensor]:
        """En_id of the first faces, of who is like them, their expressions, `[faces,...]`."""
        whole = codes_of(self.pairs, self.faces, self._code_of, self.fabric)
        dim = self.model.world.identity.dim
        parts = whole.tensor_split([dim, 2 * dim], 1)
        return dict(zip(("own", "alike", "expression"), parts, strict=True))

    def _code_of(self, faces: Tensor) -> Tensor:
        world = self.model.world
        assert world.donors is not None
        assert world.looks is not None
        own = world.identity(faces)
        alike = world.donors.alike(own, world.looks(faces))
        return torch.cat([own, alike, self.model.expression(faces)], 1)
