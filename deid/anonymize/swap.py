"""Face swapping (section 4.2): another person's features with this person's expression."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from deid.anonymize.base import working_side
from deid.model import Deidentifier
from deid.nets.backbones import at_size
from deid.seeds import torch_generator
from deid.worlds.world import World


@dataclass(frozen=True)
class Swap:
    """Gives each face the identity of somebody who does not exist.

    The donor is a picture synthesized from w = mapping(z), with z drawn from the face's seed, so
    no real person is impersonated and one seed always means one donor picture. A donor whose
    cosine with the original exceeds `max_similarity` in En_id is replaced by the seed's next
    draw; after `tries` draws the least similar one is taken.
    """

    world: World
    model: Deidentifier
    max_similarity: float
    tries: int
    name: str = "swap"
    enough: int | None = None
    resolution: int | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "resolution", working_side(self.world))

    @torch.no_grad()
    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """`[N,3,R,R]` → the same shape: the donors' identity, the faces' expression."""
        return at_size(self.model.swap(self.donors(faces, seeds), faces), faces.shape[-1])

    @torch.no_grad()
    def donors(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """The donor picture of each face, at the world's resolution."""
        original = self.world.identity(faces)
        chosen = self._draw(seeds, 0).to(faces)
        similarity = (self.world.identity(chosen) * original).sum(dim=1)
        for attempt in range(1, self.tries):
            again = torch.nonzero(similarity > self.max_similarity).flatten()
            if len(again) == 0:
                break
            drawn = self._draw([seeds[i] for i in again.tolist()], attempt).to(faces)
            cosine = (self.world.identity(drawn) * original[again]).sum(dim=1)
            better = cosine < similarity[again]
            chosen[again[better]] = drawn[better]
            similarity[again[better]] = cosine[better]
        return chosen

    def _draw(self, seeds: Sequence[int], attempt: int) -> Tensor:
        generator = self.world.generator
        z = torch.stack(
            [
                torch.randn(generator.z_dim, generator=torch_generator("donor", attempt, seed))
                for seed in seeds
            ]
        )
        w = self.world.truncated_mapping(z.to(self.world.device))
        return generator.synthesis(w).clamp(-1.0, 1.0)
