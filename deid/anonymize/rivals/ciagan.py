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
    min_G  E[(D(x', l) − 1)²] + λ E[½ d(S(x'), S(y))²],  y a picture of the person c

half of the pairs (x₁, x₂), and half of (x, y), of one person.

Departures. Where x shows c itself, and the face is known, 10 · E|x' − x| within m is added to G's
loss, and λ is 0.1 (theirs: no such term, and 1): with theirs, in the minutes that it is trained for
here, D was never fooled and G painted glaring patterns that S took for the person. 64 px, of which
the networks see the 48 px around the face; theirs 128. The identities are 128 of 3,000 rendered
people with 4 pictures each; theirs 1,200 with 30 and more. Narrower networks
(`deid.nets.ciagan`), no spectral norm in G. S sees the face within the mask alone (an option of
their code), and learns the Proxy-NCA loss of the paper's pretraining beside the contrastive one.
One step of G for one of D (their code: 3); the kept weights of G are a moving average. Pictures are
not cropped at random, as all are aligned.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deid.anonymize.rivals.learned import enlarged, small
from deid.nets.ciagan import IDENTITIES, PICTURE, Generator, anonymized, masks
from deid.seeds import numpy_generator
from deid.worlds.world import World


@dataclass(frozen=True)
class CIAGAN:
    """Gives each face to somebody whom the generator knows; who that is follows from the seed."""

    world: World
    network: Generator
    name: str = "ciagan"
    resolution: int | None = None
    enough: int | None = None

    @torch.no_grad()
    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """`[N,3,R,R]` in [-1, 1] → the same; outside of the mask not a pixel changes."""
        side, landmarks = faces.shape[-1], self.world.landmarks(faces).cpu()
        whom = torch.tensor([identity(seed) for seed in seeds]).to(faces.device)
        made = anonymized(self.network, small(faces), landmarks * (PICTURE / side), whom)
        inside = masks(landmarks, side).to(faces)
        return torch.where(inside > 0, torch.lerp(faces, enlarged(made, side), inside), faces)


def identity(seed: int) -> int:
    """Whose face it becomes."""
    return int(numpy_generator("rivals/ciagan", 0, seed).integers(IDENTITIES))
