"""The record of a batch: one JSON line a file, and what lets a killed batch resume.

`manifest.jsonl` has the last line of each input, sorted by name, and does not tell how often the
batch was interrupted. Until the batch ends, new lines are in a journal in `.deid/`: a local one
is appended to, and brought to the disk every second; one on S3, where nothing can be appended to,
comes in parts. A line is written after its output is complete, so that a killed batch does again
what has no line, to the same bytes.

In `.deid/`, too, are the versions that the storages gave inputs and outputs. While both are what
they were, neither needs to be read to know that an input is done; where one is not, its content
is hashed. They can be deleted: all that is lost is time.
"""

import io
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from deid.audit.seal import LEDGER, TIME, times_of
from deid.batch.bundle import UNKNOWN, Origin
from deid.gate.record import FaceRecord
from deid.storage.local import LocalStorage
from deid.storage.protocol import PRIVATE, Storage, StorageFailure

NAME = "manifest.jsonl"
PREVIEWS = "previews.jsonl"  # of a dry run, which writes nothing that counts as an output
PREVIEW_SUFFIX = ".preview.png"

SYNC_SECONDS = 1.0  # how old a line of a local journal may get before the disk must have it
PART_LINES, PART_SECONDS = 64, 5.0  # how much of a journal on S3 a kill may lose


@dataclass(frozen=True)
class RunInfo:
    """What a pipeline says of itself before it gets any work."""

    settings: str  # fingerprint of what shapes an output, but for the version of the model
    manifest: str = NAME
    suffix: str = ""  # what an output's name has beyond the input's
    notes: tuple[str, ...] = ()
    content: str = ""  # hash of the model
    any_version: bool = True  # outputs of other versions of the model stay


@dataclass(frozen=True)
class FileRecord:
    """What became of one input. `status`: written, quarantined, skipped or previewed."""

    file: str  # relative to the source folder
    status: str
    reason: str = ""
    input_sha256: str = ""
    output: str = ""  # relative to the destination
    output_sha256: str = ""
    settings: str = ""  # fingerprint of everything that shapes the output
    method: str = ""
    seed: int | None = 0  # None: a secret one
    model: str = ""  # hash of every network that may draw an output
    origin: Origin = UNKNOWN
    detector: str = ""
    thresholds: dict[str, float] = field(default_factory=dict)  # the judges and their limits
    faces: tuple[FaceRecord, ...] = ()
    notes: tuple[str, ...] = ()  # what could not come back, such as further frames


Line = dict[str, Any]
"""A `FileRecord` as JSON has it."""

Versions = tuple[str, str]
"""Of an input and of its output ("" for none), as their storages tell them."""


class Records:
    """What became of every input of a destination, in as few bytes as that takes."""

    def __init__(self, storage: Storage, name: str = NAME) -> None:
        self.name = name
        self._storage = storage
        self._texts: dict[str, str] = {}
        self._versions: dict[str, Versions] = {}
        self._times: dict[str, str] = {}  # of lines that the ledger does not have
        self._journal = open_journal(storage, name)
        parts = list(storage.list(_journal_stem(name)))
        self.changed = bool(parts)  # since the manifest was written
        for line, text in self._read(name):
            self._texts[line["file"]] = text
        for line, _ in self._read(_known_name(name)):
            first, second = line["versions"]
            self._versions[line["file"]] = (str(first), str(second))
        for part in parts:
            for line, _ in self._read(part):
                first, second = line["versions"]
                self._remember(line["record"], (str(first), str(second)), str(line[TIME]))

    def _read(self, name: str) -> Iterator[tuple[Line, str]]:
        """The whole lines of a file, parsed and as they are; one that a killed run left unfinished
        has no say."""
        if self._storage.version(name) is None:
            return
        for data in io.BytesIO(self._storage.read(name)):  # not all lines at once
            text = data.decode(errors="replace").strip()
            try:
                line = json.loads(text)
                whole = isinstance(line.get("record", line)["file"], str)
            except (ValueError, KeyError, AttributeError, TypeError):
                continue
            if whole:
                yield line, text

    def _remember(self, line: Line, versions: Versions, time: str) -> None:
        file, text = line["file"], _text(line)
        if self._texts.get(file) != text:  # else it came to its end when it first said so
            self._texts[file], self._times[file] = text, time
        self._versions[file] = versions

    def names(self) -> set[str]:
        """Of every input on record."""
        return set(self._texts)

    def forget(self, file: str) -> None:
        """Drop the record of an input, from the next manifest on."""
        self.changed = True
        for kept in (self._texts, self._versions, self._times):
            kept.pop(file, None)

    def last(self, file: str) -> Line | None:
        """The newest record of an input, or None."""
        text = self._texts.get(file)
        return None if text is None else dict(json.loads(text))

    def versions(self, file: str) -> Versions | None:
        """What the versions of an input and its output were when its record was made."""
        return self._versions.get(file)

    def append(self, line: Line, versions: Versions) -> None:
        """Add what became of an input, if that is news; what survives a kill: see `Journal`."""
        file = line["file"]
        if self._texts.get(file) == _text(line) and self._versions.get(file) == versions:
            return
        self.changed = True
        self._remember(line, versions, _now())
        self._journal.append(line, versions)

    def flush(self, trace: bool = False) -> None:
        """Bring every line to where a kill does not reach it; with a `trace` it is seen, until
        `settle`, that the manifest may not be that of its seal."""
        self._journal.flush(trace)

    def all(self) -> Iterator[Line]:
        """The newest record of each input, sorted by name, and its time, which no manifest has:
        that of a batch that was killed is no other than that of one that was not."""
        sealed = self.name == NAME and self._storage.version(LEDGER) is not None
        times = (times_of(self._storage.read(LEDGER)) if sealed else {}) | self._times
        for file in sorted(self._texts):
            yield {**json.loads(self._texts[file]), TIME: times.get(file, "")}

    def manifest(self) -> bytes:
        """The records as the manifest has them."""
        return "".join(f"{self._texts[file]}\n" for file in sorted(self._texts)).encode()

    def discard(self) -> None:
        """Remove the manifest and all that belongs to it."""
        self.flush()
        parts = self._storage.list(_journal_stem(self.name))
        for name in (self.name, _known_name(self.name), *parts):
            self._storage.delete(name)

    def settle(self) -> None:
        """Keep the versions and drop the journal, once the manifest is written."""
        lines = (
            _text({"file": file, "versions": pair}) for file, pair in sorted(self._versions.items())
        )
        text = "".join(f"{line}\n" for line in lines)
        self._storage.write(_known_name(self.name), text.encode())
        self.flush()
        for part in self._storage.list(_journal_stem(self.name)):
            self._storage.delete(part)


def is_unfinished(storage: Storage) -> bool:
    """Whether a batch is at work there, or was ended before its seal."""
    return bool(storage.list(_journal_stem(NAME)))


def _journal_stem(name: str) -> str:
    return f"{PRIVATE}{name.removesuffix('.jsonl')}.journal"


def _known_name(name: str) -> str:
    return f"{PRIVATE}{name.removesuffix('.jsonl')}.known.jsonl"


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=True)


def _entry(line: Line, versions: Versions) -> str:
    return _text({"record": line, "versions": versions, TIME: _now()}) + "\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Journal(Protocol):
    """What happened since the manifest was written."""

    def append(self, line: Line, versions: Versions) -> None:
        """A local line survives a kill at once, a power cut after `SYNC_SECONDS`; lines on S3
        survive either after `PART_LINES` or `PART_SECONDS`."""

    def flush(self, trace: bool = False) -> None:
        """All lines survive both; with `trace` there is a journal even without lines."""


def open_journal(storage: Storage, name: str = NAME) -> Journal:
    """The journal of the manifest `name`; several may be open at a time, one for each shard."""
    if isinstance(storage, LocalStorage):
        return _LocalJournal(storage, f"{_journal_stem(name)}.jsonl")
    return _PartJournal(storage, _journal_stem(name))


class _LocalJournal:
    """One file, appended to."""

    def __init__(self, storage: LocalStorage, name: str) -> None:
        self._path = storage.path(name)
        self._unsynced_since: float | None = None

    def append(self, line: Line, versions: Versions) -> None:
        now = time.monotonic()
        since = now if self._unsynced_since is None else self._unsynced_since
        synced = now - since > SYNC_SECONDS
        self._write(_entry(line, versions), synced)
        self._unsynced_since = None if synced else since

    def flush(self, trace: bool = False) -> None:
        if trace or self._unsynced_since is not None:
            self._write("", synced=True)
            self._unsynced_since = None

    def _write(self, text: str, synced: bool) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                size = os.lseek(handle, 0, os.SEEK_END)
                if text and size and os.pread(handle, 1, size - 1) != b"\n":
                    text = "\n" + text
                os.write(handle, text.encode())
                if synced:
                    os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise StorageFailure(
                f"{self._path}: cannot be written ({error.strerror or error}); free space, then "
                "run the same command to resume"
            ) from None


class _PartJournal:
    """Objects of some lines each, whose names sort by time."""

    def __init__(self, storage: Storage, stem: str) -> None:
        self._storage, self._stem = storage, stem
        self._lines: list[str] = []
        self._since = time.monotonic()

    def append(self, line: Line, versions: Versions) -> None:
        self._lines.append(_entry(line, versions))
        late = time.monotonic() - self._since > PART_SECONDS
        if late or len(self._lines) >= PART_LINES:
            self.flush()

    def flush(self, trace: bool = False) -> None:
        if trace or self._lines:
            name = f"{self._stem}-{time.time_ns():020d}-{secrets.token_hex(4)}.jsonl"
            self._storage.write(name, "".join(self._lines).encode())
        self._lines, self._since = [], time.monotonic()
