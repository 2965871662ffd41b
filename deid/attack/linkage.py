"""The attacker who holds the very photographs and compares what a method keeps of them.

Who is shown may be gone from an output, and the photograph still be told by what a good method
keeps on purpose: pose, where features lie, an open mouth, age, sex, skin, light. From other
people's outputs it is learned what of that is kept, and how exactly. No recognizer is asked.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from deid.attack.learned import Rows
from deid.attack.scores import People, Scores
from deid.attack.utility import Described
from deid.pixels import Pixels

LIGHT = 6
"""Side of the picture, in cells whose mean color counts."""

COMPONENTS = {"landmarks": 10, "openings": 3, "person": 2, "skin": 1, "light": 12}
"""Principal components of the originals that count, at most. (How likely each of seven expressions
is tells less than it disturbs: mostly it is 0 or 1, which is not normally distributed.)"""

LEAST = 24  # people: of 8 to 10, chance alone finds one and a half times its share
FOLDS = 10  # of people
RIDGE = 5.0  # in outputs
FLOOR = 0.05  # of a variance, of 1 over all originals

Parts = dict[str, Rows]
"""What is seen of N pictures, `[N,K]`, by its name in `COMPONENTS`."""


@dataclass(frozen=True)
class Kept:
    """What is seen of outputs and of their originals."""

    outputs: Parts
    originals: Parts


def parts_of(described: Described, faces: Pixels) -> Parts:
    """What can be kept of `uint8 [N,S,S,3]`, of whom networks that do not ask who somebody is said
    `described`."""
    cells = [cv2.resize(face, (LIGHT, LIGHT), interpolation=cv2.INTER_AREA) for face in faces]
    parts = {
        "landmarks": described.landmarks.reshape(len(faces), -1) / faces.shape[1],
        "openings": described.openings,
        "skin": described.skin[:, None],
        "light": np.stack(cells).reshape(len(faces), -1) / 255.0,
    }
    if (person := described.person) is not None:
        parts["person"] = np.stack([person.years, person.male], axis=1)
    return parts


def linked_scores(kept: Kept, people: People) -> Scores | None:
    """How much likelier each original `[N]` is where it is an output's own than where it is a
    stranger's: logarithms `[N,N]`, a row an output; None where there are too few people.

    What is said of a person's output and another person's original comes from a model that has seen
    neither (of their own: neither them nor others).
    """
    if people.max() + 1 < LEAST:
        return None
    pairs = [
        _whitened(kept.outputs[name], original, COMPONENTS[name])
        for name, original in kept.originals.items()
    ]
    outputs, originals = (np.concatenate(side, axis=1) for side in zip(*pairs, strict=True))
    fold, scores = people % FOLDS, np.empty((len(people), len(people)))
    for one in range(FOLDS):
        for two in range(FOLDS):
            second = two if two != one else (one + 1) % FOLDS
            known = (fold != one) & (fold != second)
            link = _Link.learned(outputs[known], originals[known])
            rows, columns = np.flatnonzero(fold == one), np.flatnonzero(fold == two)
            scores[np.ix_(rows, columns)] = link.evidence(outputs[rows], originals[columns])
    return scores


def _whitened(outputs: Rows, originals: Rows, components: int) -> tuple[Rows, Rows]:
    """Both in the main components of the originals, each with a variance of 1 over these."""
    mean = originals.mean(axis=0)
    _, spreads, axes = np.linalg.svd(originals - mean, full_matrices=False)
    count = min(components, int((spreads > max(1e-6 * spreads[0], 1e-9)).sum()))
    axes = axes[:count].T / (spreads[:count] / np.sqrt(len(originals)))
    return (outputs - mean) @ axes, (originals - mean) @ axes


@dataclass(frozen=True)
class _Link:
    """An original is expected at a straight map of its output; around that and, of strangers,
    around the mean, originals are normally distributed."""

    expected: Rows  # [D+1,D]
    around_expected: Rows  # [D,D], the covariance of originals around that
    around_mean: Rows

    @classmethod
    def learned(cls, outputs: Rows, originals: Rows) -> "_Link":
        known = _with_one(outputs)
        normal = known.T @ known + RIDGE * np.eye(known.shape[1])
        map_ = np.asarray(np.linalg.solve(normal, known.T @ originals), np.float64)
        missed = originals - known @ map_
        floor = FLOOR * np.eye(originals.shape[1])
        own = missed.T @ missed / len(missed) + floor
        return cls(map_, own, originals.T @ originals / len(originals) + floor)

    def evidence(self, outputs: Rows, originals: Rows) -> Scores:
        """Of each output `[N,D]` for each original `[M,D]`, `[N,M]`."""
        expected = _with_one(outputs) @ self.expected
        off = originals[None] - expected[:, None]
        return np.asarray(
            _log_density(off, self.around_expected) - _log_density(originals, self.around_mean)
        )


def _log_density(off: Rows, covariance: Rows) -> Rows:
    """That of a normal distribution at `[…,D]` from its mean, less a constant."""
    half = np.linalg.cholesky(np.linalg.inv(covariance))
    far = np.square(off @ half).sum(axis=-1)
    return np.asarray(np.log(np.diag(half)).sum() - far / 2)


def _with_one(rows: Rows) -> Rows:
    return np.column_stack([rows, np.ones(len(rows))])
