"""Output directories that appear whole or not at all, and resume where a killed run stopped.

DVC deletes a stage's outputs before it runs the stage, so work in progress lives beside them, in
`<out>.partial`, together with a fingerprint of everything that shapes the result. A run with the
same fingerprint continues there; any other starts afresh. When the block ends without an
exception, the directory is renamed to its final name.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deid.errors import DeidError

FINGERPRINT = ".fingerprint"
LEFTOVERS = ".deid-*.tmp"  # of a run that was killed while it wrote


def fingerprint(settings: Any) -> str:
    """SHA-256 of any JSON-like value (pydantic models: pass `model_dump(mode="json")`)."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal. `OSError` for a pipe, which would never end."""
    if path.is_fifo():
        raise OSError(errno.EINVAL, "a pipe, not a file", str(path))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_sha256(folder: Path, patterns: Iterable[str]) -> str:
    """One hash over the names and bytes of the files in `folder` that match any of `patterns`."""
    whole = hashlib.sha256()
    for file in sorted({file for pattern in patterns for file in folder.glob(pattern)}):
        if file.is_file():
            name = file.relative_to(folder).as_posix()
            whole.update(f"{name} {file_sha256(file)}\n".encode())
    return whole.hexdigest()


def working_directory(out: Path) -> Path:
    """Where the unfinished work for `out` lies."""
    return out.with_name(out.name + ".partial")


@contextmanager
def resumable_directory(out: Path, settings: Any) -> Iterator[Path]:
    """Yield a working directory for `out`; rename it to `out` when the block succeeds.

    `DeidError` where a file stands in the way of either, before any work is done. An `OSError` of
    the block that names no file (writing to a full disk names none) gets the directory's name.
    """
    working = working_directory(out)
    for place in (out, working):
        if place.exists() and not place.is_dir():
            raise DeidError(f"{place}: a folder belongs here, not a file; move the file away")
    prepare(working, settings)
    try:
        yield working
    except OSError as error:
        if error.errno is not None:
            error.filename = error.filename or str(working)
        raise
    if out.exists():
        shutil.rmtree(out)
    (working / FINGERPRINT).unlink()  # last of all: a run killed before this can still resume
    working.rename(out)


def prepare(working: Path, settings: Any) -> None:
    """Make `working` an empty directory, unless work with the same settings was begun there."""
    mark, wanted = working / FINGERPRINT, fingerprint(settings).encode()
    if mark.is_file() and mark.read_bytes() == wanted:
        for leftover in working.rglob(LEFTOVERS):
            leftover.unlink()
        return
    if working.exists():
        shutil.rmtree(working)
    working.mkdir(parents=True)
    mark.write_bytes(wanted)


def write_atomically(path: Path, data: bytes, last_look: Callable[[], None] = lambda: None) -> None:
    """Write `data` to a name beside `path` that nobody has, bring it to the disk, then rename,
    unless the `last_look` before that raises. An `OSError` names the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".deid-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        last_look()
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # a full disk has no name
        raise
