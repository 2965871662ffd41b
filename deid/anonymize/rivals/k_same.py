"""k-Same: every output is the mean of k faces, and stands for at least k people.

Newton, Sweeney and Malin 2005 ("Preserving privacy by de-identifying face images", k-Same-Pixel),
with H a set of faces of different people:

    repeat: pick Γ of H; C = the k faces of H nearest to Γ (itself among them)
            every face of C becomes Γ' = (1/k) Σ_{c∈C} c;   H = H − C

so no attacker links an output to one of C by more than chance, 1/k. `select` (Gross, Airoldi, Malin
and Sweeney 2005) first parts H by a utility function and forms each C within one part. `furthest`
(Meng and Sun 2014) forms clusters by pairs, C and the k faces furthest from it, C*, and each gets
the *other's* mean, so that an output is not even alike.

Departures. The set H is closed: `GALLERY` people whom the generator draws, since here a face may
not depend on others that happen to be treated with it; a face that is not in H takes the place of
the nearest of H (a proxy gallery, as k-Same-Net has, Meden et al. 2018). Near is by En_id, not by
pixels or eigenfaces. Faces are warped onto the mean shape before they are averaged, by thin plates
between 68 landmarks (as k-Same-M does with an active appearance model, Gross et al. 2006), else
means are ghosts. The last cluster takes what is left, up to 2k - 1 faces. The utility of `select`
is whether the mouth is open, and the sex where the world can tell it; theirs was expression and
gender by a trained classifier.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from deid.anonymize.base import working_side
from deid.anonymize.strangers import SMALL, codes_of, drawn, people
from deid.faces.alignment import Points
from deid.imaging.warp import warped
from deid.nets.backbones import at_size
from deid.pixels import to_pixels
from deid.worlds.world import SEX, World

K = 5
GALLERY = 60
INNER_LIPS = (62, 66)
"""Landmarks in the middle of the upper and the lower inner lip."""

Kind = Literal["average", "select", "furthest"]


@dataclass(frozen=True)
class Cluster:
    """`members` of the gallery, all of whom become the mean of `averaged`."""

    members: tuple[int, ...]
    averaged: tuple[int, ...]


REMEMBERED = 12
"""Mean faces that are kept in memory, of up to 12 MB each: sides are as many as sizes of faces."""


@dataclass(frozen=True)
class KSame:
    """The k-Same of one `kind` over a gallery of people whom the world's generator draws."""

    world: World
    kind: Kind
    k: int = K
    gallery: int = GALLERY
    enough: int | None = None
    name: str = field(init=False)
    resolution: int | None = field(init=False)
    _surrogates: dict[tuple[Cluster, int], Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"ksame-{self.kind}")
        object.__setattr__(self, "resolution", working_side(self.world))

    @torch.no_grad()
    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """`[N,3,R,R]` → the same shape; seeds play no part."""
        made = [
            self.surrogate(self.cluster_of(face), face.shape[-1]) for face in torch.split(faces, 1)
        ]
        return torch.cat(made).to(faces)

    def cluster_of(self, face: Tensor) -> Cluster:
        """That of the gallery's person who is nearest to a face `[1,3,R,R]`, in its part."""
        likeness = (self.codes @ self.world.identity(face)[0]).cpu()
        if self.kind == "select":
            own = _utility(self.world, face, self.opening)
            if own in self.utility:
                other = torch.tensor([one != own for one in self.utility])
                likeness = likeness.masked_fill(other, -torch.inf)
        nearest = int(likeness.argmax())
        return next(cluster for cluster in self.clusters if nearest in cluster.members)

    def surrogate(self, cluster: Cluster, side: int) -> Tensor:
        """The mean face of a cluster, `[1,3,side,side]`."""
        if (cluster, side) not in self._surrogates:
            if len(self._surrogates) == REMEMBERED:
                self._surrogates.clear()
            w = self.people[list(cluster.averaged)]
            self._surrogates[cluster, side] = _mean_face(self.world, w, side)
        return self._surrogates[cluster, side]

    @cached_property
    def people(self) -> Tensor:
        """w of the gallery, `[gallery,w_dim]`."""
        return people(self.world, "k-same gallery", self.gallery)

    @cached_property
    def codes(self) -> Tensor:
        """En_id of the gallery, `[gallery,dim]`."""
        return codes_of(self.world, self.people)

    @cached_property
    def clusters(self) -> tuple[Cluster, ...]:
        """A partition of the gallery; each has at least k members."""
        near = (self.codes @ self.codes.T).cpu().double().numpy()
        everybody = list(range(self.gallery))
        if self.kind == "average":
            return tuple(_same(near, everybody, self.k))
        if self.kind == "furthest":
            return tuple(_furthest(near, everybody, self.k))
        parts = _parts(self.utility, self.k)
        return tuple(cluster for part in parts for cluster in _same(near, part, self.k))

    @cached_property
    def opening(self) -> float:
        """How far the gallery's mouths are open, the median."""
        return float(np.median([_opening(self.world, face) for face in self._small]))

    @cached_property
    def utility(self) -> list[tuple[bool, ...]]:
        """The part that each of the gallery belongs to."""
        return [_utility(self.world, face, self.opening) for face in self._small]

    @cached_property
    def _small(self) -> tuple[Tensor, ...]:
        pictures = drawn(self.world, self.people, min(SMALL, self.world.resolution))
        return torch.split(pictures, 1)


def _same(near: Points, everybody: Sequence[int], k: int) -> list[Cluster]:
    left, groups = list(everybody), []
    while len(left) >= 2 * k:
        group = sorted(left, key=lambda other: -near[left[0], other])[:k]
        groups.append(group)
        left = [one for one in left if one not in group]
    return [Cluster(tuple(group), tuple(group)) for group in [*groups, left] if group]


def _furthest(near: Points, everybody: Sequence[int], k: int) -> list[Cluster]:
    left, clusters = list(everybody), []
    while len(left) >= 2 * k:
        here = sorted(left, key=lambda other: -near[left[0], other])[:k]
        rest = [one for one in left if one not in here]
        if len(rest) < 2 * k:  # the last pair takes what is left
            there = rest
        else:
            there = sorted(rest, key=lambda other: near[here, other].mean())[:k]
        clusters += [Cluster(tuple(here), tuple(there)), Cluster(tuple(there), tuple(here))]
        left = [one for one in rest if one not in there]
    # Fewer than 2k from the start: there is nobody further.
    return clusters + ([Cluster(tuple(left), tuple(left))] if left else [])


def _parts(utility: Sequence[tuple[bool, ...]], k: int) -> list[list[int]]:
    """The gallery by utility; parts of fewer than k people are joined, so that each has k."""
    by_part: Mapping[tuple[bool, ...], list[int]] = {
        part: [i for i, own in enumerate(utility) if own == part] for part in sorted(set(utility))
    }
    parts = sorted(by_part.values(), key=len)
    while len(parts) > 1 and len(parts[0]) < k:
        parts = sorted([parts[0] + parts[1], *parts[2:]], key=len)
    return parts


def _opening(world: World, face: Tensor) -> float:
    upper, lower = world.landmarks(face)[0][list(INNER_LIPS)]
    return float((lower - upper).norm()) / face.shape[-1]


@torch.no_grad()
def _utility(world: World, face: Tensor, median: float) -> tuple[bool, ...]:
    opened = _opening(world, face) > median
    if world.looks is None:
        return (opened,)
    return opened, bool(world.looks(face)[0, SEX] > 1.5)  # half of the certainty, in thirds


def _mean_face(world: World, w: Tensor, side: int) -> Tensor:
    faces = drawn(world, w, side)
    see: Callable[[Tensor], Tensor] = world.landmarks
    points = [see(face)[0].double().cpu().numpy() for face in torch.split(faces, 1)]
    shape = np.mean(points, axis=0)
    aligned = [
        warped(picture, own, shape) for picture, own in zip(to_pixels(faces), points, strict=True)
    ]
    mean = torch.from_numpy(np.mean(aligned, axis=0)).permute(2, 0, 1)[None]
    return at_size(mean.float() / 127.5 - 1.0, side)
