"""ALAE (Pidhorskyi et al. 2020): pictures through the w of an adversarial latent autoencoder.

E maps a picture to w, G draws w; both are trained by `deid.training.rivals.alae`, whose docstring
has the equations.

`swap` mixes styles as their section 5.3 does with real pictures: E of both faces, the donor's w in
some layers of G and the face's in the others. Yang et al. do not say which layers they took for
their tables 2 and 3. Here the face keeps `POSE_LAYERS`, and the donor has the others.

An anonymization is a swap; its donor is a stranger of the generator, by the face's seed.
"""

import torch
from torch import Tensor

from deid.anonymize.rivals.learned import SIDE, FaceSwapper, enlarged, small
from deid.nets.alae import Autoencoder
from deid.worlds.world import World

POSE_LAYERS = 2
"""The coarsest of G, those of 4²: pose and the shape of the head."""


class ALAE(FaceSwapper):
    """See `FaceSwapper`; what a face gives itself is G(E(x))."""

    name = "alae"
    enough = SIDE

    def __init__(self, world: World, network: Autoencoder) -> None:
        super().__init__(world)
        self.network = network

    @torch.no_grad()
    def swap_one(self, donor: Tensor, face: Tensor) -> Tensor:
        """Pose of the face, all else of the donor."""
        theirs, own = (self.network.encode(small(picture))[:, None] for picture in (donor, face))
        layers = torch.arange(self.network.decoder.num_ws, device=face.device)[None, :, None]
        mixed = torch.where(layers < POSE_LAYERS, own, theirs)
        return enlarged(self.network.decode(mixed), face.shape[-1])
