"""InfoGAN (Chen et al. 2016): the face is drawn again from its codes.

`deid.training.rivals.infogan` trains G, D and Q, and has the equations. An InfoGAN has no encoder
but Q, which tells the codes c and nothing of the noise z. So an anonymization is G(z, c) with the
likeliest c of the face, by Q(c|x), and z by the face's seed: kept is what the codes came to mean,
lost is all else, the background and often the expression too. It can neither swap nor reconstruct.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deid.anonymize.rivals.learned import SIDE, enlarged, small
from deid.nets.infogan import NOISE, InfoGAN
from deid.seeds import torch_generator
from deid.worlds.world import World


@dataclass(frozen=True)
class RedrawnCodes:
    """`network` was trained in `world`."""

    world: World
    network: InfoGAN
    name: str = "infogan"
    resolution: int | None = None
    enough: int | None = SIDE

    @torch.no_grad()
    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """`[N,3,R,R]` → the same shape; seeds draw z."""
        randoms = [torch_generator("rivals/infogan", 0, seed) for seed in seeds]
        z = torch.stack([torch.randn(NOISE, generator=random) for random in randoms])
        _, posterior = self.network.recognition(small(faces))
        drawn = self.network.generator(z.to(faces), posterior.best)
        return enlarged(drawn, faces.shape[-1])
