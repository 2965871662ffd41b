"""The attackers A0 to A4, each with every recognizer; A5 is the best of them.

A0 searches outputs among clear pictures; A1 among outputs made of other pictures of the person; A2
has learned, recognizer by recognizer, what outputs of other people were made from; A3 has learned
it from all recognizers' answers and the pixels; A4 anonymized the clear pictures again, without
the key, and searches there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from deid.attack.crops import Crops
from deid.attack.learned import Rows, learned_scores
from deid.attack.recognizers import Embeddings, Recognizer, embed_all
from deid.attack.scores import People, Scores, Searched, fused, person_scores, without_own

ATTACKERS: Mapping[str, str] = {
    "A0": "clear gallery: outputs are searched among the originals",
    "A1": "anonymized gallery: among outputs of other pictures of the person",
    "A2": "parrot: has learned from other people's outputs what this recognizer makes of them",
    "A3": "learned inversion: has learned from pixels and all recognizers to tell the original",
    "A4": "same code, other key: among originals that the attacker anonymized again",
}
ALL = "all together"
THUMBNAIL = 24  # side of what A3 sees of the pixels
PIXELS = 0.5  # how much they count beside one recognizer

Searches = dict[str, dict[str, Searched]]
"""By attacker, then by recognizer."""


@dataclass(frozen=True)
class Seen:
    """What all recognizers say of all pictures."""

    people: People  # [N]
    originals: Embeddings
    outputs: Embeddings
    again: Embeddings | None
    thumbnails: Rows  # [N,K], of the outputs


def see(crops: Crops, networks: Sequence[Recognizer]) -> Seen:
    """Every picture, once by every recognizer."""
    _, people = np.unique([pair.person for pair in crops.pairs], return_inverse=True)
    again = None if crops.again is None else embed_all(networks, crops.again, crops.points)
    return Seen(
        people=people,
        originals=embed_all(networks, crops.originals, crops.points),
        outputs=embed_all(networks, crops.outputs, crops.points),
        again=again,
        thumbnails=np.stack([_thumbnail(output) for output in crops.outputs]),
    )


def attack(seen: Seen) -> tuple[Searches, dict[str, str]]:
    """All searches that can be made, and why others cannot, by attacker."""
    searches: Searches = {name: {} for name in ATTACKERS}
    for name in seen.originals:
        strangers = _strangers(seen, name)
        for attacker, scores in _all_scores(seen, name).items():
            if scores is not None:
                known = strangers if attacker in ("A0", "A1", "A4") else _of_others(seen, scores)
                searches[attacker][name] = Searched(scores, known, seen.people)
    for found in searches.values():
        if len(found) > 1:
            found[ALL] = fused(found)
    left_out = {name: why for name, why in _REASONS.items() if not searches[name]}
    return {name: found for name, found in searches.items() if found}, left_out


_REASONS = {
    "A1": "not applicable: nobody has two outputs",
    "A2": "not applicable: too few people to learn from others",
    "A3": "not applicable: too few people to learn from others",
    "A4": "not tried: give --again FOLDER, the originals anonymized with another seed or key",
}


def _all_scores(seen: Seen, name: str) -> dict[str, Scores | None]:
    before, after, people = seen.originals[name], seen.outputs[name], seen.people
    everything = np.concatenate([*seen.outputs.values(), seen.thumbnails], axis=1)
    return {
        "A0": _best(after @ before.T, people),
        "A1": _others(after, people),
        "A2": learned_scores(after, before, [after], people),
        "A3": learned_scores(after, before, [everything], people),
        "A4": None if seen.again is None else _best(after @ seen.again[name].T, people),
    }


def _best(similarities: Scores, people: People) -> Scores:
    return person_scores(similarities, people, int(people.max()) + 1)


def _others(outputs: Rows, people: People) -> Scores | None:
    """Outputs among outputs, none with itself."""
    if len(np.unique(people)) == len(people):
        return None
    similarities = outputs @ outputs.T
    np.fill_diagonal(similarities, -np.inf)
    return _best(similarities, people)


def _strangers(seen: Seen, name: str) -> Scores:
    """Originals among the originals of all others."""
    before = seen.originals[name]
    return without_own(_best(before @ before.T, seen.people), seen.people)


def _of_others(seen: Seen, scores: Scores) -> Scores:
    """Where a model knows outputs only, its impostors are outputs of others."""
    return without_own(scores, seen.people)


def _thumbnail(output: NDArray[np.uint8]) -> Rows:
    small = cv2.resize(output, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    values = small.astype(np.float64).ravel() / 127.5 - 1.0
    return np.asarray(values / np.sqrt(values.size) * PIXELS)


def where_it_survives(crops: Crops, networks: Sequence[Recognizer]) -> dict[str, Searches]:
    """A0 with the inside of all faces gray, and with all but the inside, on both sides."""
    parts = {}
    for part, inside in (("outside", True), ("inside", False)):
        before, after = crops.masked(inside)
        _, people = np.unique([pair.person for pair in crops.pairs], return_inverse=True)
        seen = (embed_all(networks, faces, crops.points) for faces in (before, after))
        originals, outputs = seen
        found = {}
        for name in originals:
            a, b = originals[name], outputs[name]
            strangers = without_own(_best(a @ a.T, people), people)
            found[name] = Searched(_best(b @ a.T, people), strangers, people)
        found[ALL] = fused(found)
        parts[part] = {"A0": found}
    return parts
