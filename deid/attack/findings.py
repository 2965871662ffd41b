"""From searches to what a report says: the best attacker, groups, and who is found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deid.attack.attackers import Searches
from deid.attack.groups import Labels
from deid.attack.scores import Hits, bootstrap, figures, hits

FIGURES = ("rank1", "rank5", "fnir", "fnir_calibrated", "tar", "tar_calibrated")
LOWER_IS_WORSE = ("fnir", "fnir_calibrated")
LEAST_OF_GROUP = 5  # people; of fewer, a share says nothing

AllHits = Mapping[str, Mapping[str, Hits]]
"""By attacker and recognizer."""


@dataclass(frozen=True)
class Best:
    """A5: the attacker and recognizer that do most harm by one figure."""

    attacker: str
    recognizer: str


def all_hits(searches: Searches) -> dict[str, dict[str, Hits]]:
    """What became of every search."""
    return {
        attacker: {name: made for name, one in found.items() if (made := hits(one)) is not None}
        for attacker, found in searches.items()
    }


def tables(of: AllHits, seed: int) -> dict[str, dict[str, Any]]:
    """All figures by attacker and recognizer, the worst recognizer (by rank-1, then TAR) first."""
    made = {
        attacker: {name: figures(one, seed) for name, one in found.items()}
        for attacker, found in of.items()
    }
    return {
        attacker: dict(
            sorted(found.items(), key=lambda item: [-item[1][f]["value"] for f in ("rank1", "tar")])
        )
        for attacker, found in made.items()
    }


def best(of: AllHits) -> dict[str, Best]:
    """For each figure, who does most harm; the earlier attacker where several do the same."""
    chosen = {}
    for figure in FIGURES:
        sign = -1.0 if figure in LOWER_IS_WORSE else 1.0
        chosen[figure] = max(
            (
                (sign * float(one.values[figure].mean()), Best(attacker, name))
                for attacker, found in of.items()
                for name, one in found.items()
            ),
            key=lambda pair: pair[0],
        )[1]
    return chosen


def found_by_any(of: AllHits) -> dict[str, float]:
    """The share of outputs whose person some attacker with some recognizer puts first, and what it
    would be if all of them guessed, each for itself."""
    once: dict[int, float] = {}
    missed: dict[int, float] = {}
    for found in of.values():
        for one in found.values():
            for row, hit in zip(one.rows.tolist(), one.values["rank1"].tolist(), strict=True):
                once[row] = max(once.get(row, 0.0), hit)
                missed[row] = missed.get(row, 1.0) * (1 - 1 / one.gallery)
    return {
        "value": float(np.mean(list(once.values()))),
        "guessing": float(np.mean([1 - each for each in missed.values()])),
    }


def by_group(
    of: AllHits, chosen: Mapping[str, Best], labels: Labels, seed: int
) -> dict[str, dict[str, Any]]:
    """Rank-1 and TAR of the best attackers in each group; groups of few people are left out."""
    made: dict[str, dict[str, Any]] = {}
    for kind, groups in labels.items():
        rows = np.array(groups)
        made[kind] = {}
        for group in sorted(set(groups)):
            figures_of_group = {
                figure: _of_rows(of, chosen[figure], figure, rows == group, seed)
                for figure in ("rank1", "tar")
            }
            if all(figures_of_group.values()):
                made[kind][group] = figures_of_group
    return made


def worst_group(
    groups: Mapping[str, Mapping[str, Any]], best: Mapping[str, Any], figure: str
) -> dict[str, Any]:
    """The group of which the best attacker finds or matches most, and how far it is `above` all
    people together."""
    return max(
        (
            {
                "kind": kind,
                "group": group,
                "above": found[figure]["value"] - best[figure]["value"],
                **found[figure],
            }
            for kind, of_kind in groups.items()
            for group, found in of_kind.items()
        ),
        key=lambda one: one["value"],
        default={},
    )


def worst_cases(one: Hits, count: int) -> list[int]:
    """The outputs found with the largest margin, first the clearest."""
    order = np.argsort(-one.margins, kind="stable")
    return [int(one.rows[i]) for i in order[:count] if one.margins[i] > 0]


def _of_rows(
    of: AllHits, chosen: Best, figure: str, rows: NDArray[np.bool_], seed: int
) -> dict[str, Any] | None:
    one = of[chosen.attacker][chosen.recognizer]
    those = rows[one.rows]
    people: Sequence[int] = np.unique(one.people[those]).tolist()
    if len(people) < LEAST_OF_GROUP:
        return None
    estimate = bootstrap(one.values[figure][those], one.people[those], seed)
    return {**vars(estimate), "people": len(people)}
