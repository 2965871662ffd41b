"""The thresholds of a world's judges: how they are measured, and what was measured before.

A world's weights may come with a file of them (`World.calibration`), and what is measured here is
kept in a folder (`World.memory`): on a CPU it takes minutes. Both are caches only. An entry holds a
hash of all that its numbers follow from: weights, test faces, settings and this file. One that is
damaged, out of range, of other judges or of other weights is measured again, and a folder that
cannot be written costs time and nothing else.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from deid.storage.staging import file_sha256, fingerprint, write_atomically

log = logging.getLogger(__name__)

FALSE_ACCEPT_RATE = 1e-3
CONFIDENCE = 0.975
DRAWS = 200
TAIL = 20.0  # times the rate: the share of pairs, the most similar ones, that is looked at


class Limit(NamedTuple):
    """A judge's threshold, and the share of pairs of one person that it finds above it."""

    threshold: float
    true_accept_rate: float


Limits = Mapping[str, Limit]


class _Entry(BaseModel):
    """A file: threshold and share by judge, and a hash of them, for a disk that forgets."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    limits: dict[
        str,
        tuple[Annotated[float, Field(gt=-1, lt=1)], Annotated[float, Field(ge=0, le=1)]],
    ]
    sha256: str


def pair_similarities(
    embeddings: NDArray[Any], identities: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosines of all pairs of one person, and of different persons, among unit `[N,dim]`."""
    rows, columns = np.triu_indices(len(embeddings), k=1)
    same = identities[rows] == identities[columns]
    cosines = np.asarray((embeddings @ embeddings.T)[rows, columns], dtype=np.float32)
    return cosines[same], cosines[~same]


def measured_limit(
    embeddings: NDArray[Any], identities: NDArray[np.int64], rate: float = FALSE_ACCEPT_RATE
) -> Limit:
    """The threshold of a judge that gave unit `[N,dim]` for faces of `identities [N]`.

    Pairs that share a person are not independent, so people are drawn again with replacement
    (bootstrap): the threshold is the one that `CONFIDENCE` of the draws put higher. With that
    confidence, at least a share `rate` of all pairs of strangers exceeds it, and a face whose
    cosine is below is no nearer to its original than such strangers are.
    """
    people = int(identities.max()) + 1
    rows, columns = np.triu_indices(len(embeddings), k=1)
    apart = identities[rows] != identities[columns]
    rows, columns = identities[rows[apart]], identities[columns[apart]]
    genuine, cosines = pair_similarities(embeddings, identities)
    top = np.argsort(-cosines, kind="stable")[: max(1, round(TAIL * rate * len(cosines)))]
    rows, columns, cosines = rows[top], columns[top], cosines[top]
    counts = np.bincount(identities, minlength=people)
    drawn = np.random.default_rng(0).integers(0, people, (DRAWS, people))
    thresholds = []
    for draw in drawn:
        times = np.bincount(draw, minlength=people)
        pairs = ((times * counts).sum() ** 2 - (times * counts**2 * times).sum()) / 2
        above = np.cumsum(times[rows] * times[columns])
        place = int(np.searchsorted(above, rate * pairs))
        thresholds.append(cosines[min(place, len(cosines) - 1)])
    threshold = round(float(np.quantile(thresholds, 1.0 - CONFIDENCE)), 4)
    return Limit(threshold, float((genuine > threshold).mean()))


def calibrated(
    origin: Any,
    judges: Iterable[str],
    measure: Callable[[], Limits],
    shipped: Path | None = None,
    folder: Path | None = None,
    device: str = "cpu",
) -> Limits:
    """The limits of `judges`: those `shipped` with the weights, else those kept in `folder`, else
    what `measure` gives, which is kept there.

    `origin`, JSON-like, is what they follow from besides this file; what is kept in a folder was
    measured by the same torch on the same kind of device, too.
    """
    key = fingerprint([origin, file_sha256(Path(__file__))])
    if shipped is not None and (found := _read(shipped, key, set(judges))) is not None:
        return found
    if folder is None:
        return measure()
    key = fingerprint([key, *_program(), device])
    path = folder / f"{key}.json"
    found = _read(path, key, set(judges))
    if found is None:
        found = measure()
        _write(path, key, found)
    return found


def ship(path: Path, origin: Any, limits: Limits) -> None:
    """Write the file that comes with the weights."""
    _write(path, fingerprint([origin, file_sha256(Path(__file__))]), limits)


def _read(path: Path, key: str, judges: set[str]) -> Limits | None:
    try:
        entry = _Entry.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.debug("%s: measured again (%s)", path, error)
        return None
    limits = {name: Limit(*kept) for name, kept in entry.limits.items()}
    whole = entry.sha256 == _sha256(key, limits) and limits.keys() == judges
    return limits if whole else None


def _write(path: Path, key: str, limits: Limits) -> None:
    content = {"limits": limits, "sha256": _sha256(key, limits)}
    try:
        write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
    except OSError as error:
        log.debug("%s: not kept (%s)", path, error)


def _sha256(key: str, limits: Limits) -> str:
    return fingerprint([key, dict(limits)])


@cache
def _program() -> list[str]:
    """The library that computes."""
    return [torch.__version__]
