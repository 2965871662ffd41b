"""Faces that the photo world's generator draws, to learn from how they differ with w."""

from collections.abc import Iterator

import torch
from torch import Tensor

from deid.progress import progress
from deid.seeds import torch_generator
from deid.worlds.world import World

SIDE, BATCH = 128, 8
HELD_OUT = 200
"""The last faces, which nothing is fitted to."""


@torch.inference_mode()
def draw_faces(world: World, count: int, seed: int, name: str) -> Iterator[tuple[Tensor, Tensor]]:
    """w `[BATCH,w_dim]` of people, and their faces `[BATCH,3,SIDE,SIDE]`, until there are `count`;
    `name` tells one purpose's people from another's."""
    random = torch_generator(name, 0, seed)
    with progress(name, total=count) as bar:
        for _ in range(0, count, BATCH):
            z = torch.randn(BATCH, world.generator.z_dim, generator=random)
            w = world.truncated_mapping(z.to(world.device))
            yield w, drawn(world, w)
            bar.advance(BATCH)


def drawn(world: World, w: Tensor) -> Tensor:
    """The faces `[N,3,SIDE,SIDE]` of w `[N,w_dim]`."""
    return world.draw(w, SIDE).clamp(-1.0, 1.0)
