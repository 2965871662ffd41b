"""Keyed pseudonyms: under one secret key a person has the same new identity in every picture.

No list of people is kept. What En_id says of a face, in the few directions in which people differ
most, goes through random Fourier features (Rahimi and Recht 2007) whose frequencies and phases come
from the key, and what comes out is taken as the coordinates of somebody among people like the
world's donors. It is continuous: two views of a person, whose codes are close and not equal, get
nearly one identity, where the best of many donors by a keyed score would be another one too often
(`docs/threats.md`). Another key has other phases, and so gives an identity that has nothing to do
with it.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from deid.errors import DeidError
from deid.secret import SecretKey

PEOPLE = 300
"""Drawn to learn how people differ, where the world has no bank of donors."""

TOLD = 16
"""Directions of a person's code that the key is applied to: the first principal ones of donors.
Fewer confuse people; with more, two views of one person come apart."""

DRAWN = 100
"""Principal directions in which identities differ from the mean."""

WIDTH = 0.8
"""How far apart, on the unit sphere of told directions, people must be to get unrelated identities.
Less is harder to learn from pairs, and tells views of one person apart."""

FARTHEST = 2.5
"""Standard deviations beyond which a kept look is not followed."""


@dataclass(frozen=True)
class LinearModel:
    """Donors' codes: their `mean [dim]`; what each kept look adds, `of_looks [K,dim]` per standard
    deviation, `looks_spread [K]` from `looks_mean [K]`; and principal `directions [D,dim]` of the
    rest with their `spread [D]`."""

    mean: Tensor
    of_looks: Tensor
    looks_mean: Tensor
    looks_spread: Tensor
    directions: Tensor
    spread: Tensor

    @classmethod
    def fit(cls, codes: Tensor, looks: Tensor) -> "LinearModel":
        """Of `codes [N,dim]` and the looks `[N,K]` that shall be kept; K may be 0. In double
        precision and with signs fixed, so that every machine finds the same."""
        if len(codes) <= TOLD + looks.shape[1]:
            raise DeidError(f"--key: {len(codes)} donors are too few for pseudonyms")
        codes, looks = codes.double().cpu(), looks.double().cpu()
        mean, looks_mean, looks_spread = codes.mean(0), looks.mean(0), looks.new_ones(0)
        rest, of_looks = codes - mean, codes.new_zeros(0, codes.shape[1])
        if looks.shape[1]:
            looks_spread = looks.std(0).clamp_min(1e-6)
            standard = (looks - looks_mean) / looks_spread
            of_looks = torch.linalg.lstsq(standard, rest).solution
            rest = rest - standard @ of_looks
        _, values, directions = torch.linalg.svd(rest, full_matrices=False)
        directions, values = directions[:DRAWN], values[:DRAWN]
        largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
        spread = values / len(codes) ** 0.5
        return cls(mean, of_looks, looks_mean, looks_spread, directions * largest.sign(), spread)

    def usual(self, looks: Tensor) -> Tensor:
        """The code of people of such looks `[N,K]` on average, `[N,dim]`."""
        standard = (looks - self.looks_mean) / self.looks_spread
        return self.mean + standard.clamp(-FARTHEST, FARTHEST) @ self.of_looks

    def told(self, codes: Tensor, usual: Tensor) -> Tensor:
        """What the key is applied to, of codes `[N,dim]` of people who are `usual [N,dim]` on
        average: unit vectors `[N,TOLD]`."""
        return F.normalize((codes - usual) @ self.directions[:TOLD].T / self.spread[:TOLD], dim=1)


@dataclass(frozen=True)
class Pseudonyms:
    """A key's map from codes to codes. `frequencies [TOLD,D]` and `phases [D]` are the key's;
    `center` and `scale`, `[D]`, those of what they give for donors. What else is drawn under the
    key, is drawn by its `seed`: by a seed that all keys share, outputs could be joined."""

    model: LinearModel
    frequencies: Tensor
    phases: Tensor
    center: Tensor
    scale: Tensor
    seed: int

    @classmethod
    def of_key(cls, key: SecretKey, codes: Tensor, looks: Tensor) -> "Pseudonyms":
        """Among donors of `codes [N,dim]`, whose `looks [N,K]` shall be kept."""
        model = LinearModel.fit(codes, looks)
        count = len(model.spread)
        frequencies = torch.from_numpy(_normal(key, TOLD * count)).view(TOLD, count) / WIDTH
        phases = torch.from_numpy(key.uniform("phases", count)) * 2 * math.pi
        told = model.told(codes.double().cpu(), model.usual(looks.double().cpu()))
        features = torch.cos(told @ frequencies + phases)
        seed = int(key.uniform("seed", 1)[0] * 2**53)
        return cls(model, frequencies, phases, features.mean(0), features.std(0), seed)

    def __call__(self, codes: Tensor, looks: Tensor, most: float) -> Tensor:
        """The identities, unit vectors `[N,dim]`, of people of `codes [N,dim]` and kept
        `looks [N,K]`. None has a cosine above `most` with the person's own code: what exceeds it is
        turned away from there."""
        own, model = codes.double().cpu(), self.model
        usual = model.usual(looks.double().cpu())
        features = torch.cos(model.told(own, usual) @ self.frequencies + self.phases)
        standard = F.normalize((features - self.center) / self.scale, dim=1)
        ways = standard * len(model.spread) ** 0.5 * model.spread
        given = F.normalize(usual + ways @ model.directions, dim=1)
        return turned_away(given, own, most).to(codes)


def turned_away(codes: Tensor, own: Tensor, most: float) -> Tensor:
    """Unit vectors `[N,dim]` as they are, or the nearest of a cosine of `most` with `own`."""
    cosine = (codes * own).sum(1, keepdim=True)
    across = F.normalize(codes - cosine * own, dim=1)
    return torch.where(cosine > most, most * own + (1.0 - most**2) ** 0.5 * across, codes)


def between(own: Tensor, other: Tensor, share: float) -> Tensor:
    """Unit vectors `[N,dim]` at a `share` of the arc from `own` to `other`."""
    cosine = (own * other).sum(1, keepdim=True).clamp(-1.0, 1.0)
    angle, across = torch.arccos(cosine), F.normalize(other - cosine * own, dim=1)
    return F.normalize(torch.cos(share * angle) * own + torch.sin(share * angle) * across, dim=1)


def _normal(key: SecretKey, count: int) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """`[count]` standard normal numbers (Box and Muller 1958)."""
    radius = np.sqrt(-2.0 * np.log(key.uniform("radii", count)))
    return np.asarray(radius * np.cos(2.0 * math.pi * key.uniform("angles", count)))
