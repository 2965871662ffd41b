"""What happened since a manifest was written: one JSON line an input, in `.deid/`.

A local journal is appended to, and brought to the disk every second; one on S3, where nothing can
be appended to, comes in parts. A line is written after its output is complete, so that a killed
batch does again what has no line, to the same bytes. Where there is a key each line is signed: a
run takes lines for its own, and its seal would vouch for whatever others wrote there.
"""

import errno
import json
import os
import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from deid.audit.keys import AuditKey
from deid.audit.seal import TIME
from deid.storage.local import LocalStorage
from deid.storage.protocol import PRIVATE, Storage, StorageFailure

NAME = "manifest.jsonl"
SIGNATURE = "signature"

SYNC_SECONDS = 1.0  # how old a line of a local journal may get before the disk must have it
PART_LINES, PART_SECONDS = 64, 5.0  # how much of a journal on S3 a kill may lose

Line = dict[str, Any]
"""A `FileRecord` as JSON has it."""

Versions = tuple[str, str]
"""Of an input and of its output ("" for none), as their storages tell them."""


def is_unfinished(storage: Storage) -> bool:
    """Whether a batch is at work there, or was ended before its seal."""
    return bool(storage.list(journal_stem(NAME)))


def journal_stem(name: str) -> str:
    """What the names of all parts of the journal of the manifest `name` begin with."""
    return f"{PRIVATE}{name.removesuffix('.jsonl')}.journal"


def text_of(line: Mapping[str, Any]) -> str:
    """A line as all records have it."""
    return json.dumps(line, ensure_ascii=True)


def now() -> str:
    """The time of a record."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def is_signed(entry: Line, key: AuditKey) -> bool:
    """Whether a line of a journal is as `key` signed it."""
    return key.verify(_message(entry), str(entry.get(SIGNATURE)))


def _entry(line: Line, versions: Versions, key: AuditKey | None) -> str:
    entry = {"record": line, "versions": versions, TIME: now()}
    return text_of(entry | ({SIGNATURE: key.sign(_message(entry))} if key else {})) + "\n"


def _message(entry: Line) -> bytes:
    """What is signed: everything but the signature, in one fixed form."""
    content = {name: value for name, value in entry.items() if name != SIGNATURE}
    return b"deid journal\n" + json.dumps(content, sort_keys=True).encode()


class Journal(Protocol):
    """What happened since the manifest was written."""

    def append(self, line: Line, versions: Versions) -> None:
        """A local line survives a kill at once, a power cut after `SYNC_SECONDS`; lines on S3
        survive either after `PART_LINES` or `PART_SECONDS`."""

    def flush(self, trace: bool = False) -> None:
        """All lines survive both; with `trace` there is a journal even without lines."""


def open_journal(storage: Storage, name: str = NAME, key: AuditKey | None = None) -> Journal:
    """The journal of the manifest `name`, signed if there is a `key`; several may be open at a
    time, one for each shard."""
    if isinstance(storage, LocalStorage):
        return _LocalJournal(storage, f"{journal_stem(name)}.jsonl", key)
    return _PartJournal(storage, journal_stem(name), key)


class _LocalJournal:
    """One file, appended to."""

    def __init__(self, storage: LocalStorage, name: str, key: AuditKey | None) -> None:
        self._path, self._key = storage.path(name), key
        self._unsynced_since: float | None = None

    def append(self, line: Line, versions: Versions) -> None:
        now = time.monotonic()
        since = now if self._unsynced_since is None else self._unsynced_since
        synced = now - since > SYNC_SECONDS
        self._write(_entry(line, versions, self._key), synced)
        self._unsynced_since = None if synced else since

    def flush(self, trace: bool = False) -> None:
        if trace or self._unsynced_since is not None:
            self._write("", synced=True)
            self._unsynced_since = None

    def _write(self, text: str, synced: bool) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            handle = os.open(self._path, flags, 0o644)
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
            way = "remove that link" if error.errno == errno.ELOOP else "free space"
            raise StorageFailure(
                f"{self._path}: cannot be written ({error.strerror or error}); {way}, then run the "
                "same command to resume"
            ) from None


class _PartJournal:
    """Objects of some lines each, whose names sort by time."""

    def __init__(self, storage: Storage, stem: str, key: AuditKey | None) -> None:
        self._storage, self._stem, self._key = storage, stem, key
        self._lines: list[str] = []
        self._since = time.monotonic()

    def append(self, line: Line, versions: Versions) -> None:
        self._lines.append(_entry(line, versions, self._key))
        late = time.monotonic() - self._since > PART_SECONDS
        if late or len(self._lines) >= PART_LINES:
            self.flush()

    def flush(self, trace: bool = False) -> None:
        if trace or self._lines:
            name = f"{self._stem}-{time.time_ns():020d}-{secrets.token_hex(4)}.jsonl"
            self._storage.write(name, "".join(self._lines).encode())
        self._lines, self._since = [], time.monotonic()
