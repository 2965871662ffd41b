"""Moves of a model's aliases: one at a time, and each written down before it is made.

A move is a tag of the registered model: who asked for what and when, and how aliases and tags of
versions stand after it. Then these are set one by one, and at last the tag says that it is done.
Who comes after a process that was killed midway finds the tag and makes the same move to its end:
to set an alias twice is to set it once. The tags stay; they are the history.
"""

import getpass
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from deid.registry.lock import alone
from deid.registry.versions import (
    CHALLENGER,
    CHAMPION,
    FIRST,
    PASSED,
    PREVIOUS,
    PROMOTED,
    VALIDATION,
    aliases_of,
)

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

TAG = "move."
LONGEST = 1000  # characters of a reason
PROMOTION, ROLLBACK, RETIREMENT = "promote", "rollback", "retire"
ORDER = (CHAMPION, PREVIOUS, CHALLENGER)


@dataclass(frozen=True)
class Move:
    """What was asked for, and what follows from it."""

    what: str
    version: str  # that it is about
    before: str | None  # the champion then
    after: str | None  # and after it
    why: str = ""
    aliases: Mapping[str, str | None] = field(default_factory=dict)  # None: nobody has it
    tags: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # of versions
    who: str = ""
    when: str = ""
    number: int = 0
    done: bool = False


def promotion(aliases: Mapping[str, str], version: str, why: str) -> Move:
    """The move that makes `version` champion, from how the aliases stand."""
    before = aliases.get(CHAMPION)
    after: dict[str, str | None] = {CHAMPION: version}
    if before is not None:
        after[PREVIOUS] = before
    if aliases.get(CHALLENGER) == version:
        after[CHALLENGER] = None
    tags = {version: {PROMOTED: before or FIRST, VALIDATION: PASSED}}
    return Move(PROMOTION, version, before, version, why, after, tags)


def history(client: "MlflowClient", model: str) -> list[Move]:
    """Every move, the oldest first."""
    moves = []
    for key, value in client.get_registered_model(model).tags.items():
        if key.startswith(TAG):
            moves.append(Move(**json.loads(value)))
    return sorted(moves, key=lambda move: move.number)


@contextmanager
def moving(client: "MlflowClient", model: str) -> Iterator[Move | None]:
    """Keep others from moving aliases; yields the move that a killed process left and that is now
    made to its end, or None."""
    with alone(client, model):
        unfinished = [move for move in history(client, model) if not move.done]
        for move in unfinished:
            _finish(client, model, move)
        yield unfinished[-1] if unfinished else None


def make(client: "MlflowClient", model: str, move: Move) -> Move:
    """Make `move`, within `moving`; returns it as history has it."""
    number = max((past.number for past in history(client, model)), default=0) + 1
    when = datetime.now(UTC).isoformat(timespec="seconds")
    move = replace(move, number=number, when=when, who=whoami(), why=move.why[:LONGEST])
    _write(client, model, move)
    return _finish(client, model, move)


def whoami() -> str:
    """Who asks: the name a server knows, or the user's on this machine."""
    if name := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        return name
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # a user without a name, as in a container
        return f"{os.getuid()}@{socket.gethostname()}"


def _finish(client: "MlflowClient", model: str, move: Move) -> Move:
    held = aliases_of(client, model)
    for alias in ORDER:
        wanted = move.aliases.get(alias, held.get(alias))
        if wanted == held.get(alias):
            continue
        if wanted is None:
            client.delete_registered_model_alias(model, alias)
        else:
            client.set_registered_model_alias(model, alias, wanted)
    for version, tags in move.tags.items():
        for key, value in tags.items():
            client.set_model_version_tag(model, version, key, value)
    done = replace(move, done=True)
    _write(client, model, done)
    return done


def _write(client: "MlflowClient", model: str, move: Move) -> None:
    client.set_registered_model_tag(model, f"{TAG}{move.number:06d}", json.dumps(asdict(move)))
