"""The artifacts rate of each method: the share of its pictures that people called altered."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deid.errors import DeidError
from deid.storage.staging import write_atomically
from deid.study.answers import Answers, Key


@dataclass(frozen=True)
class Rated:
    """What the raters said of one method."""

    mean: float  # over raters, of each one's share
    std: float  # over raters, n - 1; 0 for one
    yes: int
    ratings: int
    low: float  # Wilson's interval of yes / ratings, as if all ratings were independent
    high: float

    @property
    def parts(self) -> Mapping[str, float]:
        """As the tables take a figure."""
        return {"mean": self.mean, "std": self.std}


@dataclass(frozen=True)
class Scores:
    """The result of a study."""

    study: str
    raters: int
    pictures: int
    unanswered: int  # of raters × pictures
    kappa: float | None  # Fleiss', of the pictures that all raters rated
    methods: Mapping[str, Rated]


def score(answers: Answers, key: Key) -> Scores:
    """What the answers come to; `DeidError` where a method has none."""
    methods = {
        method: _rated(answers, [p for p, own in key.methods.items() if own == method], method)
        for method in sorted(set(key.methods.values()))
    }
    given = sum(len(one) for one in answers.values())
    return Scores(
        study=key.study,
        raters=len(answers),
        pictures=len(key.methods),
        unanswered=len(answers) * len(key.methods) - given,
        kappa=_kappa(answers, key),
        methods=methods,
    )


def _rated(answers: Answers, pictures: list[str], method: str) -> Rated:
    said = [[one[p] for p in pictures if p in one] for one in answers.values()]
    shares = [float(np.mean(one)) for one in said if one]
    if not shares:
        raise DeidError(f"{method}: nobody rated any of its pictures; wait for more answers")
    yes, ratings = sum(map(sum, said)), sum(map(len, said))
    low, high = wilson(yes, ratings)
    std = float(np.std(shares, ddof=1)) if len(shares) > 1 else 0.0
    return Rated(float(np.mean(shares)), std, yes, ratings, low, high)


def _kappa(answers: Answers, key: Key) -> float | None:
    by_all = [p for p in key.methods if all(p in one for one in answers.values())]
    if len(answers) < 2 or not by_all:
        return None
    yes = np.array([sum(one[p] for one in answers.values()) for p in by_all])
    return fleiss_kappa(np.stack([yes, len(answers) - yes], axis=1))


def wilson(yes: int, count: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(yes, count).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


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


def write_scores(scores: Scores, file: Path) -> None:
    """As JSON."""
    write_atomically(file, json.dumps(asdict(scores), indent=2).encode() + b"\n")


def read_scores(file: Path) -> Scores:
    """What `write_scores` wrote; `DeidError` for anything else."""
    try:
        content = json.loads(file.read_bytes())
        methods = {name: Rated(**one) for name, one in content.pop("methods").items()}
        return Scores(**content, methods=methods)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DeidError(
            f"{file}: not the scores of a study ({error}); run `deid study score` again"
        ) from None


def text(scores: Scores) -> str:
    """The scores for a terminal."""
    width = max(len(name) for name in scores.methods)
    lines = [
        f"{scores.raters} raters, {scores.pictures} pictures, {scores.unanswered} unanswered",
        f"{'':{width}}  artifacts rate ± over raters   95 % (Wilson)   ratings",
    ]
    for name, one in scores.methods.items():
        interval = f"{one.low:.3f} to {one.high:.3f}"
        lines.append(
            f"{name:{width}}  {one.mean:14.3f} ± {one.std:.3f}{interval:>24}{one.ratings:>10}"
        )
    agreed = "not known" if scores.kappa is None else f"{scores.kappa:.3f}"
    return "\n".join([*lines, f"agreement of the raters (Fleiss' kappa): {agreed}"])
