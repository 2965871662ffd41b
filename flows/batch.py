"""What a batch does with a shard, apart from Prefect: fetch, de-identify, publish, record.

The destination holds `manifest.jsonl`, one line an input. A shard's own lines wait in `.deid/`
until the batch ends, so that a killed batch goes on from there.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from deid.errors import DeidError
from deid.photo.codec import SUFFIXES
from deid.photo.manifest import NAME, FileRecord, Manifest
from deid.photo.run import OTHER_PICTURES, Workshop, deidentify_path
from deid.staging import fingerprint
from deid.storage import Storage, is_safe

PARTS = ".deid/"

Line = dict[str, Any]
"""A `FileRecord` as JSON with `source_version` and `output_version`, as the storages tell them."""


@dataclass(frozen=True)
class Task:
    """One input: name, version, the version of what lies at its output's name, its last line."""

    name: str
    version: str
    occupied: str | None
    last: Line | None


def read_lines(destination: Storage, names: Iterable[str]) -> dict[str, Line]:
    """The newest line of each input, from the manifest and from parts of a killed batch."""
    parts = sorted(name for name in names if name.startswith(PARTS) and name.endswith(".jsonl"))
    lines: dict[str, Line] = {}
    for name in [*([NAME] if NAME in names else []), *parts]:
        for text in destination.read(name).decode().splitlines():
            line = json.loads(text)
            lines[line["file"]] = line
    return lines


def plan(source: Storage, destination: Storage, settings: str) -> tuple[list[Task], int]:
    """What is to do, by name, and how many inputs are done already under the same settings."""
    present = destination.list()
    lines = read_lines(destination, present)
    everything = [
        Task(name, version, present.get(name), lines.get(name))
        for name, version in source.list().items()
    ]
    todo = [task for task in everything if not _is_done(task, settings)]
    return todo, len(everything) - len(todo)


def _is_done(task: Task, settings: str) -> bool:
    last = task.last
    return (
        last is not None
        and last["status"] == "written"
        and last["settings"] == settings
        and last["source_version"] == task.version
        and last["output_version"] == task.occupied
    )


def run_shard(
    source: Storage, destination: Storage, tasks: Sequence[Task], workshop: Workshop
) -> list[Line]:
    """Bring every input of a shard to its end and leave its lines in the destination."""
    refused = {task.name: reason for task in tasks if (reason := _refusal(task.name))}
    taken = [task for task in tasks if task.name not in refused]
    with tempfile.TemporaryDirectory(prefix="deid-shard-") as scratch:
        here, there = Path(scratch) / "in", Path(scratch) / "out"
        here.mkdir()
        # Numbers for names: no key of a bucket can then be a bad, or another's, path.
        staged = {f"{n:06d}{PurePosixPath(t.name).suffix}": t for n, t in enumerate(taken)}
        for file, task in staged.items():
            (here / file).write_bytes(source.read(task.name))
        deidentify_path(here, there, workshop)
        manifest = Manifest(there)
        lines = [_publish(t, manifest.last(f), there, destination) for f, t in staged.items()]
    lines += [_line(task, refused[task.name]) for task in tasks if task.name in refused]
    part = fingerprint([[task.name, task.version] for task in tasks])[:16]
    destination.write(f"{PARTS}{part}.jsonl", _text(lines))
    return lines


def merge(destination: Storage) -> None:
    """Make one manifest, sorted by name, of the old one and all parts."""
    names = destination.list()
    parts = [name for name in names if name.startswith(PARTS)]
    if not parts:
        return
    lines = read_lines(destination, names)
    destination.write(NAME, _text(lines[file] for file in sorted(lines)))
    for part in parts:
        destination.delete(part)


def _refusal(name: str) -> tuple[str, str] | None:
    """Status and reason for an input that is not even fetched."""
    if PurePosixPath(name).suffix.lower() not in SUFFIXES | OTHER_PICTURES:
        return "skipped", "not a picture by its suffix"
    if not is_safe(name) or name.startswith(PARTS):
        return "quarantined", "not a plain name inside a folder; rename it"
    return None


def _line(task: Task, refusal: tuple[str, str]) -> Line:
    status, reason = refusal
    line: Line = asdict(FileRecord(task.name, status, reason))
    return line | {"source_version": task.version, "output_version": ""}


def _publish(task: Task, record: Line | None, there: Path, destination: Storage) -> Line:
    """Put an output where it belongs, or take away the one that no longer stands."""
    if record is None:
        raise DeidError(f"{task.name}: no record of what became of it; run the same flow again")
    ours = task.last is not None and task.occupied == task.last["output_version"]
    line = record | {"file": task.name, "source_version": task.version, "output_version": ""}
    if record["status"] != "written":
        if ours and task.occupied:
            destination.delete(task.name)
        return line
    data = (there / record["output"]).read_bytes()
    if task.occupied and not ours and not _equal(destination.read(task.name), record):
        reason = "another file of its name is at the destination; choose another destination"
        return _line(task, ("quarantined", reason))
    return line | {"output": task.name, "output_version": destination.write(task.name, data)}


def _equal(data: bytes, record: Line) -> bool:
    """A batch killed before it could record an output left the very same bytes."""
    return hashlib.sha256(data).hexdigest() == str(record["output_sha256"])


def _text(lines: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(line, ensure_ascii=True) + "\n" for line in lines).encode()
