"""Output directories that appear whole or not at all, and go on where a killed run stopped.

DVC deletes a stage's outputs before it runs the stage, so work in progress lives beside them, in
`<out>.partial`, together with a fingerprint of everything that shapes the result. A run with the
same fingerprint continues there; any other starts afresh. When the block ends without an
exception, the directory is renamed to its final name.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FINGERPRINT = ".fingerprint"


def fingerprint(settings: Any) -> str:
    """SHA-256 of any JSON-like value (pydantic models: pass `model_dump(mode="json")`)."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def working_directory(out: Path) -> Path:
    """Where the unfinished work for `out` lies."""
    return out.with_name(out.name + ".partial")


@contextmanager
def resumable_directory(out: Path, settings: Any) -> Iterator[Path]:
    """Yield a working directory for `out`; rename it to `out` when the block succeeds."""
    working = working_directory(out)
    mark = working / FINGERPRINT
    wanted = fingerprint(settings)
    if not (mark.is_file() and mark.read_text() == wanted):
        shutil.rmtree(working, ignore_errors=True)
        working.mkdir(parents=True)
        mark.write_text(wanted)
    yield working
    mark.unlink()
    if out.exists():
        shutil.rmtree(out)
    working.rename(out)


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to a temporary name beside `path`, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
