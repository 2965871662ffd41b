"""CIAGAN (Maximov, Elezi and Leal-Taixé, "CIAGAN: Conditional Identity Anonymization Generative
Adversarial Networks", CVPR 2020), after the paper and its authors' code.

With x a picture, m the mask of its face, l its landmarks as lines (outline of the face, mouth and
bridge of the nose: pose and expression, and little of who it is) and c one of the identities that
the generator knows:

    x' = (1 − m) · x + m · G(l, (1 − m) · x, c)

D judges pictures with their lines (least squares, Mao et al. 2017) and S, a siamese network, whose
face it is (contrastive loss, Hadsell et al. 2006), d the distance of two embeddings, margin a = 3:

    min_D  E[(D(x, l) − 1)²] + E[D(x', l)²]
    min_S  E_{same}[½ d(S(x₁), S(x₂))²] + E_{different}[½ max(0, a − d(S(x₁), S(x₂)))²]
    min_G  E[(D(x', l) − 1)²] + E[½ d(S(x'), S(y))²],  y a picture of the person c

half of the pairs (x₁, x₂), and half of (x, y), of one person. No loss compares x' with x.

Departures. 64 px, of which the networks see the 48 px around the face; theirs 128. `IDENTITIES`
rendered people with 4 pictures each; theirs 1,200 with 30 and more. Narrower networks
(`deid.nets.ciagan`), trained for minutes. S sees the face within the mask alone (an option of their
code), and learns the Proxy-NCA loss of the paper's pretraining beside the contrastive one. One step
of G for one of D (their code: 3); the kept weights of G are a moving average. Pictures are not
cropped at random, as all are aligned.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deid.anonymize.rivals.learned import SIDE, load_trained, small
from deid.nets import ciagan
from deid.nets.backbones import at_size
from deid.nets.ciagan import Generator
from deid.seeds import numpy_generator
from deid.worlds.world import World

IDENTITIES = 512

CUT = (..., slice(SIDE - ciagan.SIDE, SIDE), slice(8, 8 + ciagan.SIDE))
"""The rows and columns of a picture that the networks see: brow to chin."""

OUTLINE, BRIDGE, LIPS = range(17), range(27, 31), (*range(60, 68), 60)
LEFT_BROW, RIGHT_BROW = 19, 24
"""The landmarks that are drawn as lines, and those that bound the mask above."""


@dataclass(frozen=True)
class Ciagan:
    """Gives each face to somebody whom the generator knows; who that is follows from the seed."""

    world: World
    name: str = "ciagan"
    resolution: int | None = None
    enough: int | None = None
    network: Generator = field(init=False)

    def __post_init__(self) -> None:
        network = load_trained(self.name, self.world, lambda: Generator(IDENTITIES))
        object.__setattr__(self, "network", network)

    @torch.no_grad()
    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """`[N,3,R,R]` in [-1, 1] → the same; outside of the mask not a pixel changes."""
        landmarks = self.world.landmarks(faces).cpu()
        scaled = landmarks * (SIDE / faces.shape[-1])
        drawn = given(self.network, small(faces), scaled, identities(seeds))
        inside = masks(landmarks, faces.shape[-1]).to(faces)
        new = at_size(drawn, faces.shape[-1])
        return torch.where(inside > 0, torch.lerp(faces, new, inside), faces)


def identities(seeds: Sequence[int]) -> Tensor:
    """Whom each face is given to, `[N]`."""
    chosen = [numpy_generator("rivals/ciagan", 0, seed).integers(IDENTITIES) for seed in seeds]
    return torch.tensor(np.array(chosen, np.int64))


def given(network: Generator, faces: Tensor, landmarks: Tensor, whom: Tensor) -> Tensor:
    """x' of `faces [N,3,64,64]` with `landmarks [N,68,2]` in their pixels."""
    seen, inside = faces[CUT], masks(landmarks, SIDE).to(faces)[CUT]
    drawn = network(seen * (1.0 - inside), lines(landmarks).to(faces)[CUT], whom.to(faces.device))
    made = faces.clone()
    made[CUT] = torch.lerp(seen, drawn, inside)
    return made.clamp(-1.0, 1.0)


def lines(landmarks: Tensor) -> Tensor:
    """l: outline, bridge of the nose and mouth, `[N,1,64,64]` in [0, 1]."""
    pictures = np.zeros((len(landmarks), SIDE, SIDE), np.uint8)
    for picture, points in zip(pictures, _fixed_point(landmarks), strict=True):
        parts = [points[list(part)] for part in (OUTLINE, BRIDGE, LIPS)]
        cv2.polylines(picture, parts, False, 255, 1, cv2.LINE_AA, SHIFT)
    return torch.from_numpy(pictures)[:, None] / 255.0


def masks(landmarks: Tensor, side: int) -> Tensor:
    """m: brows to chin, `[N,1,side,side]` in [0, 1], of landmarks in pixels of `side`."""
    pictures = np.zeros((len(landmarks), side, side), np.uint8)
    for picture, points in zip(pictures, _fixed_point(landmarks), strict=True):
        jaw = points[list(OUTLINE)]
        first, last = (jaw[0, 0], points[LEFT_BROW, 1]), (jaw[-1, 0], points[RIGHT_BROW, 1])
        outline = np.concatenate([[first], jaw, [last]]).astype(np.int32)
        cv2.fillPoly(picture, [outline], 255, cv2.LINE_AA, SHIFT)
    inside = torch.from_numpy(pictures)[:, None] / 255.0
    seen = torch.zeros(SIDE, SIDE)
    seen[CUT] = 1.0
    return inside * torch.nn.functional.interpolate(seen[None, None], size=(side, side))


SHIFT = 4
"""Binary digits of a pixel's fraction, as the library draws."""


def _fixed_point(landmarks: Tensor) -> NDArray[np.int32]:
    return np.round(landmarks.numpy() * 2**SHIFT).astype(np.int32)
