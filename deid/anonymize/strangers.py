"""People whom nobody is, as En_id sees them: targets of cloaks, and how identities differ."""

from functools import cached_property

import torch
from torch import Tensor

from deid.nets.backbones import at_size
from deid.seeds import torch_generator
from deid.worlds.world import World

DRAWN = 48
"""So many are drawn where a world has no bank of donors."""

SMALL = 128
"""The side at which they are drawn, where the generator has a choice."""


class Strangers:
    """En_id's codes of people whom the generator draws: of the world's bank of donors, or, where it
    has none, of so many that are `drawn` here."""

    def __init__(self, world: World, drawn: int = DRAWN) -> None:
        self.world, self.drawn = world, drawn

    @cached_property
    def codes(self) -> Tensor:
        """`[N,dim]`, unit vectors."""
        if self.world.donors is not None:
            return self.world.donors.codes
        return codes_of(self.world, people(self.world, "strangers", self.drawn))

    @cached_property
    def likenesses(self) -> tuple[float, ...]:
        """The cosine of two people, on average, in each attacked recognizer of the world: En_id's
        of these, of the others' some who are drawn."""
        own = mean_cosine(self.codes)
        if not self.world.ensemble:
            return (own,)
        side = min(SMALL, self.world.resolution)
        pictures = drawn(self.world, people(self.world, "strangers", self.drawn), side)
        return own, *(mean_cosine(network(pictures)) for network in self.world.ensemble.values())

    def some(self, count: int, seed: int) -> Tensor:
        """`count` of them, chosen by a face's seed, `[count,dim]`."""
        random = torch_generator("rivals/strangers", 0, seed)
        chosen = torch.randperm(len(self.codes), generator=random)[:count]
        return self.codes[chosen.to(self.codes.device)]


@torch.no_grad()
def mean_cosine(codes: Tensor) -> float:
    """Of two different ones among unit vectors `[N,dim]`."""
    count = len(codes)
    return float((codes.sum(0).square().sum() - count) / (count * (count - 1)))


@torch.no_grad()
def people(world: World, name: str, count: int) -> Tensor:
    """w `[count,w_dim]` of the people of that `name`, truncated as all that the world draws."""
    z = [
        torch.randn(world.generator.z_dim, generator=torch_generator(name, i)) for i in range(count)
    ]
    return world.truncated_mapping(torch.stack(z).to(world.device))


@torch.no_grad()
def drawn(world: World, w: Tensor, side: int) -> Tensor:
    """Pictures of one person after another, `[N,3,side,side]`, as a file would hold them."""
    pictures = [at_size(world.draw(one, side), side) for one in torch.split(w, 1)]
    return torch.cat(pictures).clamp(-1.0, 1.0)


@torch.no_grad()
def codes_of(world: World, w: Tensor) -> Tensor:
    """En_id of people, `[N,dim]`, drawn small."""
    side = min(SMALL, world.resolution)
    return torch.cat([world.identity(drawn(world, one, side)) for one in torch.split(w, 1)])
