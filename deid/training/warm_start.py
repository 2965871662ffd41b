"""The warm start of stage one: M and En_expr learn the w of the pairs, and no picture is drawn.

At first M learns alone, from codes that are computed once: En_expr does not change meanwhile, so
such a step takes a hundredth of the time. Then both learn together; En_id never changes.
"""

from functools import cached_property

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from deid.latents.shards import LatentDataset
from deid.losses import latent_loss
from deid.model import Deidentifier
from deid.params import StageOneParams
from deid.pixels import to_tensor
from deid.training.codes import codes_of
from deid.training.loop import batch_rows
from deid.training.processes import local_slice


class WarmStart:
    """Losses of the first steps of stage one."""

    def __init__(
        self, params: StageOneParams, model: Deidentifier, pairs: LatentDataset, fabric: Fabric
    ) -> None:
        self.params, self.model, self.pairs, self.fabric = params, model, pairs, fabric

    def loss(self, index: int) -> Tensor:
        """The distance of M's w from those that drew the faces of batch `index`."""
        params, device = self.params, self.fabric.device
        alone = index < params.mapping_steps
        shape = (params.mapping_batch_size if alone else params.warm_batch_size,)
        rows = batch_rows("stage one/warm start", index, params.seed, len(self.pairs), shape)
        rows = local_slice(rows, self.fabric)
        w = torch.from_numpy(self.pairs.w(rows)).to(device)
        with self.fabric.autocast():
            code = self._codes[rows].to(device).float() if alone else self._code_of(rows)
            mapped = self.model.mapping(code).float()
        return latent_loss(self.model.standardize(w), mapped)

    def _code_of(self, rows: NDArray[np.int64]) -> Tensor:
        """z `[n,z_dim]` of pairs, with En_expr as it is now."""
        faces = to_tensor(self.pairs.images(rows)).to(self.fabric.device)
        if self.params.mapping_steps == 0:  # nobody needs all codes, of which there may be 70,000
            return self.model.code(faces, faces)
        dim = self.model.world.identity.dim
        identity = self._codes[rows][:, :dim].to(faces) / dim**0.5
        return self.model.joined(identity, self.model.expression(faces))

    @cached_property
    def _codes(self) -> Tensor:
        """z of every pair before En_expr was trained, `[pairs,z_dim]`, in half precision; each face
        is both faces of its own."""
        return codes_of(
            self.pairs,
            len(self.pairs),
            lambda faces: self.model.code(faces, faces).half(),
            self.fabric,
        )
