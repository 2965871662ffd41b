"""Statistics of raters, as functions of numbers; no file in here."""

import math

import numpy as np
from numpy.typing import NDArray

Z = 1.959963984540054
"""The normal deviate of a two-sided 95 %."""


def wilson(yes: int, count: int, z: float = Z) -> tuple[float, float]:
    """The score interval of a proportion (Wilson 1927), without continuity correction."""
    share, square = yes / count, z * z
    middle = (share + square / (2 * count)) / (1 + square / count)
    spread = math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    reach = z * spread / (1 + square / count)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def fleiss_kappa(counts: NDArray[np.integer]) -> float | None:
    """Agreement beyond chance (Fleiss 1971): `counts [N,C]`, how many raters put subject i into
    category j, the same number of raters (at least two) for each; None where all said the same."""
    raters = int(counts[0].sum())
    if raters < 2 or (counts.sum(axis=1) != raters).any():
        raise ValueError("every subject needs the same number of raters, at least two")
    agreed = (np.square(counts).sum(axis=1) - raters) / (raters * (raters - 1))
    chance = float(np.square(counts.sum(axis=0) / counts.sum()).sum())
    if chance == 1.0:
        return None
    return (float(agreed.mean()) - chance) / (1.0 - chance)
