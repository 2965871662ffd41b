"""β-VAE (Higgins et al. 2017): the factors that carry the identity are drawn anew.

`deid.training.rivals.beta_vae` trains the encoder and decoder, and has the equations; it also
measures which factors carry the identity. An anonymization keeps the mean of q(z|x) in the others
and takes those from the prior, by the face's seed. `swap` takes them from a donor. As the whole
picture is what 32 numbers tell, it is blurred, and the background changes too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deid.anonymize.rivals.learned import SIDE, enlarged, small
from deid.nets.beta_vae import LATENT, BetaVAE
from deid.seeds import torch_generator
from deid.worlds.world import World


@dataclass(frozen=True)
class ResampledFactors:
    """`network` was trained in `world`."""

    world: World
    network: BetaVAE
    name: str = "beta-vae"
    resolution: int | None = None
    enough: int | None = SIDE

    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """`[N,3,R,R]` → the same shape; seeds draw the identity factors."""
        randoms = [torch_generator("rivals/beta-vae", 0, seed) for seed in seeds]
        fresh = torch.stack([torch.randn(LATENT, generator=random) for random in randoms])
        return self._drawn(fresh.to(faces), faces)

    def swap(self, donors: Tensor, faces: Tensor) -> Tensor:
        """Identity factors of `donors`, the others of `faces`, `[N,3,R,R]`."""
        return self._drawn(self._factors(donors), faces)

    def reconstruct(self, faces: Tensor) -> Tensor:
        """The decoder's mean of the encoder's mean, `[N,3,R,R]`."""
        return self._drawn(self._factors(faces), faces)

    @torch.no_grad()
    def _factors(self, faces: Tensor) -> Tensor:
        mean, _ = self.network.encode(small(faces))
        return mean

    @torch.no_grad()
    def _drawn(self, identity: Tensor, faces: Tensor) -> Tensor:
        z = torch.lerp(self._factors(faces), identity, self.network.identity_factors)
        return enlarged(self.network.decode(z), faces.shape[-1])
