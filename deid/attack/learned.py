"""Attackers who learn from pairs of other people how a method hides faces, and undo that.

Kernel ridge regression from what is seen in an output to a recognizer's embedding of the original.
It has a closed form, and so have its answers without some of the people it was trained on: a model
that compares an output of person a with person b has seen neither a nor b (with a: neither a nor
the next), and still there is a gallery of everybody. (Were b among those it learned from, its
answers would lean towards b.)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from deid.attack.scores import People, Scores, without_own

Rows = NDArray[np.float64]

RIDGES = (0.01, 0.1, 1.0, 10.0)  # of the outputs' variance in the kernel's space
TRIED = 200  # people by whom a candidate is chosen
LEAST = 8  # people, or there is nothing to learn from


@dataclass(frozen=True)
class Candidate:
    """A kernel over outputs `[N,N]`, its ridge, and where learning starts: at what the recognizer
    says of the output (1), or at nothing (0)."""

    kernel: Rows
    ridge: float
    start: float


def linear(features: Rows) -> Rows:
    """The kernel of affine maps of `[N,D]`.

    Features are not centered here: less their mean, each is the negative sum of all others, so that
    a linear map of more dimensions than people would tell everybody by the others.
    """
    return np.asarray(features @ features.T + np.square(features).sum(axis=1).mean())


def smooth(features: Rows) -> Rows:
    """The kernel of smooth maps (Gaussian, as wide as the median distance), and a constant."""
    gram = features @ features.T
    distances = np.maximum(np.add.outer(np.diag(gram), np.diag(gram)) - 2 * gram, 0.0)
    return np.asarray(np.exp(-distances / max(np.median(distances), 1e-12))) + 1.0


def learned_scores(outputs: Rows, originals: Rows, features: Rows, people: People) -> Scores | None:
    """How alike each output `[N]` and each person of `people [N]` is to an attacker who has learned
    from all others, `[N,P]`; None where there are too few people.

    `outputs` and `originals [N,D]` are the recognizer's embeddings, in pairs; `features [N,K]` are
    what is seen of the outputs. The candidate for a person is the one that does best by
    all others.
    """
    count = int(people.max()) + 1
    if count < LEAST:
        return None
    # Means are no secret: whoever has the gallery and the outputs has them.
    outputs, originals = outputs - outputs.mean(axis=0), originals - originals.mean(axis=0)
    some = np.unique(people)[:TRIED]
    tried = np.isin(people, some)
    candidates = list(_candidates(features))
    success = np.stack(
        [
            _success(
                _left_out(_of(one, tried), outputs[tried], originals[tried], people[tried]),
                people[tried],
            )
            for one in candidates
        ]
    )  # [C,P]
    others = success.sum(axis=1, keepdims=True) - success
    best = np.full(count, int(success.sum(axis=1).argmax()))
    best[some] = others.argmax(axis=0)
    scores = np.empty((len(outputs), count))
    for index in np.unique(best):
        rows = best[people] == index
        scores[rows] = _left_out(candidates[index], outputs, originals, people)[rows]
    return scores


def _candidates(features: Rows) -> Iterator[Candidate]:
    for kernel, ridge, start in product((linear(features), smooth(features)), RIDGES, (0.0, 1.0)):
        yield Candidate(kernel, ridge, start)


def _of(candidate: Candidate, rows: NDArray[np.bool_]) -> Candidate:
    return Candidate(candidate.kernel[np.ix_(rows, rows)], candidate.ridge, candidate.start)


def _success(scores: Scores, people: People) -> NDArray[np.float64]:
    """For each person, how near to the top their outputs find them: mean of 1 / rank, `[P]`."""
    own = scores[np.arange(len(people)), people]
    above = (without_own(scores, people) >= own[:, None]).sum(axis=1)
    return np.bincount(people, 1.0 / (1.0 + above)) / np.bincount(people)


def _left_out(candidate: Candidate, outputs: Rows, originals: Rows, people: People) -> Scores:
    """`[N,P]`: cosine of what is predicted for an output with the originals of a person, the best
    of them, by the model that was trained on neither of both people.

    With M = (K + ridge)⁻¹ and targets T, the residuals of rows B by a model without B are
    (M_BB)⁻¹ (M T)_B. Of M T and the originals only products are needed.
    """
    kernel, size = candidate.kernel, len(people)
    ridge = candidate.ridge * max(np.trace(kernel) / size - kernel.mean(), 1e-9)
    inverse = np.linalg.inv(kernel + ridge * np.eye(size))
    weights = inverse @ (originals - candidate.start * outputs)
    lengths = np.maximum(np.linalg.norm(originals, axis=1, keepdims=True), 1e-12)
    fitted = _Fitted(inverse, weights, originals, originals / lengths)
    rows = _rows_of(people)
    scores = np.empty((size, len(rows)))
    for person, own in enumerate(rows):
        own = own[own >= 0]
        scores[own] = fitted.without(own, rows, person)
    return scores


class _Fitted:
    """A model of all rows, and what it would say without some of them."""

    def __init__(self, inverse: Rows, weights: Rows, originals: Rows, unit: Rows) -> None:
        self.inverse = inverse
        self.with_unit, self.with_originals = weights @ unit.T, weights @ originals.T
        self.with_weights = weights @ weights.T
        self.originals, self.squares = originals @ unit.T, np.square(originals).sum(axis=1)

    def without(self, own: People, rows: People, person: int) -> Scores:
        """Scores `[V,P]` of the rows `own [V]` of a `person`, against the `rows [P,W]` of each."""
        blocks = np.concatenate([np.tile(own, (len(rows), 1)), rows], axis=1)  # [P,V+W]
        # For a person's own pictures another person is left out as well: were the person alone,
        # the others' mean would lean away from them more than from anybody else.
        blocks[person, len(own) :] = rows[(person + 1) % len(rows)]
        real = blocks >= 0
        both = real[:, :, None] & real[:, None, :]
        among = blocks[:, :, None], blocks[:, None, :]
        inverse = np.where(both, self.inverse[among], np.eye(blocks.shape[1]))
        taken = np.linalg.inv(inverse)[:, : len(own)] * real[:, None, :]  # [P,V,V+W]
        dots = self.originals[own][:, rows].transpose(1, 0, 2)  # [P,V,W]
        dots = dots - taken @ self.with_unit[blocks[:, :, None], rows[:, None, :]]
        square = self.squares[own] - 2 * np.einsum(
            "pvb,pbv->pv", taken, self.with_originals[blocks[:, :, None], own]
        )
        square += np.einsum("pvb,pvb->pv", taken @ self.with_weights[among], taken)
        cosines = dots / np.sqrt(np.maximum(square, 1e-12))[:, :, None]
        return np.asarray(np.where(rows[:, None, :] >= 0, cosines, -np.inf).max(axis=2).T)


def _rows_of(people: People) -> People:
    """The rows of each person, `[P,W]`, filled up with −1."""
    groups = [np.flatnonzero(people == person) for person in range(int(people.max()) + 1)]
    table = np.full((len(groups), max(map(len, groups))), -1)
    for person, group in enumerate(groups):
        table[person, : len(group)] = group
    return table
