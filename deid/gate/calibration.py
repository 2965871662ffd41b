"""What was measured of a world's judges, kept for later starts: on a CPU it takes minutes.

An entry's name is a hash of all that its numbers follow from: weights, test faces, settings, the
program's own code and torch. It is a cache only. An entry that is damaged, out of range or of other
judges is measured again, and a folder that cannot be written costs time and nothing else.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from deid.storage.staging import fingerprint, write_atomically

log = logging.getLogger(__name__)


class Limit(NamedTuple):
    """A judge's threshold, and the share of pairs of one person that it finds above it."""

    threshold: float
    known: float


Limits = Mapping[str, Limit]


class _Entry(BaseModel):
    """A file: threshold and share by judge, and a hash of them, for a disk that forgets."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    limits: dict[
        str,
        tuple[Annotated[float, Field(gt=-1, lt=1)], Annotated[float, Field(ge=0, le=1)]],
    ]
    sha256: str


def remembered(
    folder: Path | None, origin: Any, judges: Iterable[str], measure: Callable[[], Limits]
) -> Limits:
    """The limits of `judges` that `measure` gives, from `folder` where they were measured before.

    `origin`, JSON-like, is what they follow from besides code and torch. Without a folder they are
    measured.
    """
    if folder is None:
        return measure()
    path = folder / f"{fingerprint([origin, _program()])}.json"
    found = _read(path, set(judges))
    if found is None:
        found = measure()
        _write(path, found)
    return found


def _read(path: Path, judges: set[str]) -> Limits | None:
    try:
        entry = _Entry.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.debug("%s: measured again (%s)", path, error)
        return None
    limits = {name: Limit(*kept) for name, kept in entry.limits.items()}
    whole = entry.sha256 == _sha256(path, limits) and limits.keys() == judges
    return limits if whole else None


def _write(path: Path, limits: Limits) -> None:
    content = {"limits": limits, "sha256": _sha256(path, limits)}
    try:
        write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
    except OSError as error:
        log.debug("%s: not kept (%s)", path, error)


def _sha256(path: Path, limits: Limits) -> str:
    return fingerprint([path.stem, dict(limits)])


@cache
def _program() -> list[str]:
    """The code that measures, and the library that computes."""
    import torch

    root = Path(__file__).resolve().parents[1]
    whole = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        whole.update(json.dumps([file.relative_to(root).as_posix()]).encode() + file.read_bytes())
    return [whole.hexdigest(), torch.__version__]
