"""What frozen networks say of the pairs' faces, computed once before a training."""

from collections.abc import Callable

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from deid.latents.shards import LatentDataset
from deid.pixels import to_tensor
from deid.progress import progress
from deid.training.processes import gathered

TOGETHER = 4
"""Faces that the encoders see at a time: on a CPU more of them need more time each."""


def codes_of(
    pairs: LatentDataset, count: int, encode: Callable[[Tensor], Tensor], fabric: Fabric
) -> Tensor:
    """What `encode` makes of the faces `[n,3,R,R]` of the first `count` pairs, `[count,...]`, on
    the CPU. Every process computes a share and gets the whole."""
    share = -(-count // fabric.world_size)
    first = fabric.global_rank * share
    codes = []
    with torch.no_grad(), progress("codes of the pairs", share) as bar:
        for start in range(first, first + share, TOGETHER):
            rows = np.arange(start, min(start + TOGETHER, first + share)) % count
            codes.append(encode(to_tensor(pairs.images(rows)).to(fabric.device)))
            bar.advance(len(rows))
    return gathered(fabric, torch.cat(codes))[:count].cpu()
