"""The attackers A0 to A4, each with every recognizer; A5 is the best of them.

A0 searches outputs among clear pictures, A0b without the very one that each was made of; A1 among
outputs made of other pictures of the person; A2 has learned, recognizer by recognizer, what outputs
of other people were made from, and A2+ has fine-tuned the recognizer itself for that; A3 has
learned it from all recognizers' answers and the pixels, and A3+ what outputs keep of a photograph
beside the person; A4 anonymized the clear pictures again, without the key, and searches there.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from deid.attack.crops import Crops
from deid.attack.fine_tuned import tuned_scores
from deid.attack.learned import Rows, learned_scores
from deid.attack.linkage import Kept, linked_scores
from deid.attack.recognizers import Embeddings, NamedRecognizer, embed_all
from deid.attack.scores import People, Scores, Searched, fused, person_scores, without_own

LINKAGE, NO_RECOGNIZER = "A3+", "what is kept"
"""The attacker who asks no recognizer, and what stands in its place."""

ATTACKERS: Mapping[str, str] = {
    "A0": "clear gallery: outputs are searched among the originals",
    "A0b": "other pictures: among the originals, but never the one that the output was made of",
    "A1": "anonymized gallery: among outputs of other pictures of the person",
    "A2": "parrot: has learned from other people's outputs what this recognizer makes of them",
    "A2+": "fine-tuned parrot: the recognizer itself has learned from other people's outputs",
    "A3": "learned inversion: has learned from pixels and all recognizers to tell the original",
    LINKAGE: "linkage: has learned from other people's outputs what they keep of a photograph "
    "beside the person (pose, mouth, light and more), and tells the very photograph",
    "A4": "same code, other key: among originals that the attacker anonymized again",
}
CLEAR = ("A0", "A0b")  # who search clear pictures
PARTIAL = (*CLEAR, "A2")  # who is asked where an identity survives
ALL = "all together"
EQUAL = 0.999  # a cosine that no two photographs have
ALIKE = 6.0  # standard deviations above strangers at which two people are one
ENOUGH_PEOPLE = 20  # of whom the deviation can be told
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
    tuned: Mapping[str, Scores] = field(default_factory=dict)  # by recognizer, where it was
    pictures: NDArray[np.int64] | None = None  # [N], equal where one original has several outputs
    kept: Kept | None = None  # beside who is shown


def see(
    crops: Crops, networks: Sequence[NamedRecognizer], steps: int = 0, kept: Kept | None = None
) -> Seen:
    """Every picture, once by every recognizer, and, with `steps`, by those that can be tuned."""
    _, people = np.unique([pair.person for pair in crops.pairs], return_inverse=True)
    again = None if crops.again is None else embed_all(networks, crops.again, crops.points)
    originals = embed_all(networks, crops.originals, crops.points)
    tuned = {
        one.name: tuned_scores(one.network, crops.outputs, originals[one.name], people, steps)
        for one in networks
        if steps and one.network is not None
    }
    return Seen(
        people=people,
        originals=originals,
        outputs=embed_all(networks, crops.outputs, crops.points),
        again=again,
        thumbnails=np.stack([_thumbnail(output) for output in crops.outputs]),
        tuned={name: scores for name, scores in tuned.items() if scores is not None},
        pictures=np.unique([pair.original for pair in crops.pairs], return_inverse=True)[1],
        kept=kept,
    )


def attack(
    seen: Seen, attackers: Collection[str] = ATTACKERS, same: NDArray[np.bool_] | None = None
) -> tuple[Searches, dict[str, str]]:
    """All searches of `attackers` that can be made, and why others cannot, by attacker; whom `same`
    says to be one person (`one_person`) are no strangers of each other."""
    searches: Searches = {name: {} for name in ATTACKERS if name in attackers}
    for name in seen.originals:
        strangers = _strangers(seen, name, same)
        for attacker, found in searches.items():
            if attacker in _SCORES and (scores := _SCORES[attacker](seen, name)) is not None:
                # Only who searches clear pictures can be held against clear strangers; two
                # outputs, or what a model makes of them, are alike for reasons of their own.
                others = without_own(scores, seen.people, same)
                known = strangers if attacker in CLEAR else others
                found[name] = Searched(scores, known, seen.people, same)
    if LINKAGE in searches and (scores := _linked(seen)) is not None:
        others = without_own(scores, seen.people, same)
        searches[LINKAGE][NO_RECOGNIZER] = Searched(scores, others, seen.people, same)
    for found in searches.values():
        if len(found) > 1:
            found[ALL] = fused(found)
    left_out = {name: why for name, why in _REASONS.items() if not searches.get(name, True)}
    return {name: found for name, found in searches.items() if found}, left_out


def where_it_survives(
    crops: Crops,
    networks: Sequence[NamedRecognizer],
    attackers: Collection[str] = ATTACKERS,
    same: NDArray[np.bool_] | None = None,
) -> dict[str, Searches]:
    """`PARTIAL`, as far as they are among `attackers`, with all but the inside of faces gray
    ("inside"), and with the inside gray, in originals and outputs alike."""
    parts = {}
    for part in ("inside", "outside"):
        originals, outputs = crops.masked(inside=part == "outside")
        masked = replace(crops, originals=originals, outputs=outputs, again=None)
        parts[part], _ = attack(see(masked, networks), set(PARTIAL) & set(attackers), same)
    return parts


_REASONS = {
    "A0b": "not applicable: nobody has two pictures",
    "A1": "not applicable: nobody has two outputs",
    "A2": "not applicable: too few people to learn from others",
    "A2+": "not tried, or too few people: give --fine-tune STEPS, the steps of each recognizer",
    "A3": "not applicable: too few people to learn from others",
    LINKAGE: "not applicable: too few people to learn from, fewer than 24",
    "A4": "not tried: give --again FOLDER, the originals anonymized with another seed or key",
}


def _clear(seen: Seen, name: str) -> Scores:
    return _best(seen.outputs[name] @ seen.originals[name].T, seen.people)


def _other_pictures(seen: Seen, name: str) -> Scores | None:
    """Outputs among clear pictures, none with its own original, of which there may be several
    outputs."""
    pictures = np.arange(len(seen.people)) if seen.pictures is None else seen.pictures
    if len(np.unique(pictures)) == len(np.unique(seen.people)):
        return None
    similarities = seen.outputs[name] @ seen.originals[name].T
    similarities[pictures[:, None] == pictures[None, :]] = -np.inf
    return _best(similarities, seen.people)


def _others(seen: Seen, name: str) -> Scores | None:
    """Outputs among outputs, none with itself."""
    if len(np.unique(seen.people)) == len(seen.people):
        return None
    similarities = seen.outputs[name] @ seen.outputs[name].T
    np.fill_diagonal(similarities, -np.inf)
    return _best(similarities, seen.people)


def _parrot(seen: Seen, name: str) -> Scores | None:
    outputs = seen.outputs[name]
    return learned_scores(outputs, seen.originals[name], outputs, seen.people)


def _tuned(seen: Seen, name: str) -> Scores | None:
    return seen.tuned.get(name)


def _inversion(seen: Seen, name: str) -> Scores | None:
    everything = np.concatenate([*seen.outputs.values(), seen.thumbnails], axis=1)
    return learned_scores(seen.outputs[name], seen.originals[name], everything, seen.people)


def _linked(seen: Seen) -> Scores | None:
    scores = linked_scores(seen.kept, seen.people) if seen.kept is not None else None
    return _best(scores, seen.people) if scores is not None else None


def _again(seen: Seen, name: str) -> Scores | None:
    if seen.again is None:
        return None
    return _best(seen.outputs[name] @ seen.again[name].T, seen.people)


_SCORES: Mapping[str, Callable[[Seen, str], Scores | None]] = {
    "A0": _clear,
    "A0b": _other_pictures,
    "A1": _others,
    "A2": _parrot,
    "A2+": _tuned,
    "A3": _inversion,
    "A4": _again,
}


def _best(similarities: Scores, people: People) -> Scores:
    return person_scores(similarities, people, int(people.max()) + 1)


def _strangers(seen: Seen, name: str, same: NDArray[np.bool_] | None) -> Scores:
    """Originals among the originals of all others."""
    before = seen.originals[name]
    return without_own(_best(before @ before.T, seen.people), seen.people, same)


def one_person(originals: Embeddings, people: People) -> NDArray[np.bool_]:
    """Which people are surely one to all recognizers together, `[P,P]`: a picture that is there
    twice, or an album in which each file was taken for another person. As strangers they would
    lift each threshold above what tells people."""
    every, count = [], int(people.max()) + 1
    for vectors in originals.values():
        best = person_scores((vectors @ vectors.T).T, people, count)
        between = person_scores(best.T, people, count)
        every.append(between)
    same = np.min(every, axis=0) > EQUAL
    apart = ~np.eye(count, dtype=bool)
    if count >= ENOUGH_PEOPLE:
        far = [_deviations(between, between[apart]) for between in every]
        same |= np.mean(far, axis=0) > ALIKE
    return np.asarray(same | ~apart)


def _deviations(values: Scores, usual: Scores) -> Scores:
    """How far above what is usual, in standard deviations told from the middle half."""
    low, middle, high = np.quantile(usual, (0.25, 0.5, 0.75))
    return np.asarray((values - middle) / max((high - low) / 1.349, 1e-9))


def _thumbnail(output: NDArray[np.uint8]) -> Rows:
    small = cv2.resize(output, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    values = small.astype(np.float64).ravel() / 127.5 - 1.0
    return np.asarray(values / np.sqrt(values.size) * PIXELS)
