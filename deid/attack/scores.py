"""The figures of an attack, from how well each output matches each person of a gallery.

No network and no file in here. A score matrix `[N,P]` has a row an output and a column a person:
the best score of any of the person's pictures; −inf where the gallery has none of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deid.evaluate.metrics import threshold_at
from deid.seeds import numpy_generator

Scores = NDArray[np.float64]
People = NDArray[np.int64]

FAR, FPIR = 1e-3, 1e-2
CONFIDENCE, DRAWS = 0.95, 1000
ENOUGH = 10  # comparisons that must lie above a threshold, or it is a guess


@dataclass(frozen=True)
class Estimate:
    """A figure, and what `CONFIDENCE` of the draws of people lie between."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Searched:
    """What an attacker with one recognizer has: scores of outputs, and impostors to calibrate by.

    `strangers [M,P]` are scores of pictures of people against all others, −inf for their own.
    Whom `same` says to be one are no strangers of each other; without it, nobody else is.
    """

    scores: Scores  # [N,P]
    strangers: Scores  # [M,P]
    people: People  # [N], the column of each output's own person
    same: NDArray[np.bool_] | None = None  # [P,P]


def person_scores(similarities: Scores, people: People, count: int) -> Scores:
    """`[N,M]` similarities with pictures of `people [M]` → `[N,count]`, the best of each person;
    −inf where none is finite."""
    best = np.full((count, len(similarities)), -np.inf)
    np.maximum.at(best, people, similarities.T)
    return best.T


def without_own(scores: Scores, people: People, same: NDArray[np.bool_] | None = None) -> Scores:
    """The same with −inf for each row's own person, and for whom `same [P,P]` says to be that
    one."""
    strangers = scores.copy()
    if same is not None:
        strangers[same[people]] = -np.inf
    strangers[np.arange(len(scores)), people] = -np.inf
    return strangers


@dataclass(frozen=True)
class Hits:
    """What became of each search that can be made: `[N]` each, by the figure's name."""

    rows: NDArray[np.int64]  # [N], of the outputs
    people: People
    values: Mapping[str, Scores]  # of each search
    margins: Scores  # by how much the own person's score exceeds all others'
    threshold: float
    impostors: int  # comparisons of strangers; two ways round are one
    gallery: int


def hits(found: Searched) -> Hits | None:
    """Rank-1 and rank-5, FNIR at FPIR 1 %, and TAR at FAR 1e-3: at thresholds of the strangers, as
    a recognizer has them, and at those `calibrated` on outputs, as an attacker has them: what is
    drawn is less like anybody, so that clear strangers say little of it. None: nobody has a picture
    in the gallery."""
    own = found.scores[np.arange(len(found.people)), found.people]
    rows = np.flatnonzero(np.isfinite(own))
    if len(rows) == 0:
        return None
    scores, people, own = found.scores[rows], found.people[rows], own[rows]
    others = without_own(scores, people, found.same)
    known = _comparisons(found.strangers)
    threshold, calibrated = threshold_at(FAR, known), threshold_at(FAR, _comparisons(others))
    alarms = (threshold_at(FPIR, one.max(axis=1)) for one in (found.strangers, others))
    first = ranked(own, others, 1)
    missed, missed_calibrated = (1.0 - first * (own > alarm) for alarm in alarms)
    values = {
        "rank1": first,
        "rank5": ranked(own, others, 5),
        "fnir": missed,
        "fnir_calibrated": missed_calibrated,
        "tar": (own > threshold).astype(float),
        "tar_calibrated": (own > calibrated).astype(float),
    }
    gallery = int(np.isfinite(scores).any(axis=0).sum())
    margins = own - others.max(axis=1)
    distinct = len(np.unique(known.round(9)))
    return Hits(rows, people, values, margins, threshold, distinct, gallery)


def figures(of: Hits, seed: int) -> dict[str, Any]:
    """The means over searches with their intervals, and from how many comparisons they come."""
    shown: dict[str, Any] = {
        name: vars(bootstrap(values, of.people, seed)) for name, values in of.values.items()
    }
    searches, people = len(of.rows), len(np.unique(of.people))
    for name in ("tar", "tar_calibrated"):
        # Several outputs of one person are no independent trials.
        low, high = clopper_pearson(round(float(of.values[name].mean()) * people), people)
        accepted = int(of.values[name].sum())
        shown[name] |= {"accepted": accepted, "exact_low": low, "exact_high": high}
    return shown | {
        "threshold": of.threshold,
        "impostors": of.impostors,
        "enough_impostors": of.impostors * FAR >= ENOUGH,
        "searches": searches,
        "gallery": of.gallery,
        "chance": {"rank1": 1 / of.gallery, "rank5": min(1.0, 5 / of.gallery)},
    }


def ranked(own: Scores, others: Scores, rank: int) -> Scores:
    """How likely each search has its own person among the first `rank`, `[N]`; those who tie with
    others are in any order."""
    above = (others > own[:, None]).sum(axis=1)
    level = (others == own[:, None]).sum(axis=1)
    return np.asarray(np.clip((rank - above) / (level + 1), 0.0, 1.0))


def bootstrap(values: Scores, people: People, seed: int) -> Estimate:
    """The mean over searches `[N]`, and its interval when people are drawn with replacement."""
    _, person = np.unique(people, return_inverse=True)
    sums, counts = np.bincount(person, values), np.bincount(person)
    random = numpy_generator("attack/bootstrap", 0, seed)
    drawn = random.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), DRAWS)
    means = (drawn @ sums) / (drawn @ counts)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(values.mean()), float(low), float(high))


def clopper_pearson(successes: int, trials: int) -> tuple[float, float]:
    """The exact interval of a share (Clopper and Pearson 1934), for independent trials."""
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(CONFIDENCE, method="exact")
    return float(interval.low), float(interval.high)


def trade_off(found: Searched) -> tuple[Scores, Scores]:
    """A DET curve: false accept rates, and the share of outputs that is missed at each."""
    own = found.scores[np.arange(len(found.people)), found.people]
    impostors = np.sort(_comparisons(found.strangers))[::-1]
    ranks = np.unique(np.geomspace(1, len(impostors), 200).astype(int))
    missed = [(own[np.isfinite(own)] < impostors[rank - 1]).mean() for rank in ranks]
    return ranks / len(impostors), np.asarray(missed)


def fused(searches: Mapping[str, Searched]) -> Searched:
    """All recognizers as one: the mean of their scores, each in the spread of its impostors."""
    scores, strangers = [], []
    for search in searches.values():
        known = _comparisons(search.strangers)
        middle, spread = known.mean(), known.std() + 1e-9
        scores.append((search.scores - middle) / spread)
        strangers.append((search.strangers - middle) / spread)
    one = next(iter(searches.values()))
    return Searched(np.mean(scores, axis=0), np.mean(strangers, axis=0), one.people, one.same)


def _comparisons(scores: Scores) -> Scores:
    return scores[np.isfinite(scores)]
