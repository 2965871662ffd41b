"""FaceShifter (Li, Bao, Yang, Chen and Wen 2020): the face drawn anew with all that it shows but
who it is, and with another's identity.

Section 3 of the paper, X_s the donor and X_t the face:

    Ŷ_{s,t} = AEI-Net(z_att(X_t), z_id(X_s))             z_id is En_id (theirs: ArcFace)
    Y_{s,t} = HEAR-Net(Ŷ_{s,t}, X_t − Ŷ_{t,t})           what lies before the face comes back

Departures. Networks are small and draw at 64 px (`deid.training.rivals.face_shifter`). The paper
returns all of Y; here it replaces the face alone, from over the brows to the chin, and fades at its
edge: outside the picture keeps its own pixels.
"""

import cv2
import numpy as np
import torch
from torch import Tensor

from deid.anonymize.rivals.learned import FaceSwapper, enlarged, small
from deid.imaging.region import face_region
from deid.nets.face_shifter import Swapper
from deid.worlds.world import World

FADE = 0.04
"""Of the side: how far into the face its edge reaches."""


class FaceShifter(FaceSwapper):
    """See `FaceSwapper`."""

    name = "faceshifter"

    def __init__(self, world: World, networks: Swapper) -> None:
        super().__init__(world)
        self.networks = networks

    @torch.no_grad()
    def swap_one(self, donor: Tensor, face: Tensor) -> Tensor:
        target, networks = small(face), self.networks
        attributes = networks.aei.encoder(target)
        drawn, again = (
            networks.aei(attributes, self.world.identity(picture)) for picture in (donor, face)
        )
        made = enlarged(networks.refine(drawn, target, again), face.shape[-1])
        alpha = soft_region(self.world, face)
        return torch.where(alpha > 0, torch.lerp(face, made, alpha), face).clamp(-1.0, 1.0)


def soft_region(world: World, face: Tensor) -> Tensor:
    """1 well within the face of `[1,3,R,R]`, 0 outside, `[R,R]`."""
    side = face.shape[-1]
    landmarks = world.landmarks(face)[0].double().cpu().numpy()
    inside = face_region(landmarks, side).numpy().astype(np.uint8)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5) / (FADE * side)
    fade = np.clip(depth, 0.0, 1.0)
    return torch.from_numpy(fade * fade * (3.0 - 2.0 * fade)).to(face)
