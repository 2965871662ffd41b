"""The record of a batch: one JSON line a file, and what lets a killed batch resume.

`manifest.jsonl` has the last line of each input, sorted by name, and does not tell how often the
batch was interrupted. Until the batch ends, new lines are in a journal in `.deid/`.

In `.deid/`, too, are the versions that the storages gave inputs and outputs. While both are what
they were, neither needs to be read to know that an input is done; where one is not, its content
is hashed. They can be deleted: all that is lost is time.
"""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from deid.audit.keys import AuditKey
from deid.audit.seal import LEDGER, TIME, times_of
from deid.batch.bundle import UNKNOWN, Origin
from deid.batch.journal import (
    NAME,
    Line,
    Versions,
    is_signed,
    journal_stem,
    now,
    open_journal,
    text_of,
)
from deid.gate.record import FaceRecord
from deid.storage.protocol import PRIVATE, Storage

PREVIEWS = "previews.jsonl"  # of a dry run, which writes nothing that counts as an output
PREVIEW_SUFFIX = ".preview.png"


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


class Records:
    """What became of every input of a destination, in as few bytes as that takes.

    With a `key`, new lines of the journal are signed, and old ones without its signature have no
    say: what they tell of is done again. Whether the manifest is signed is not looked at here.
    """

    def __init__(self, storage: Storage, name: str = NAME, key: AuditKey | None = None) -> None:
        self.name = name
        self._storage = storage
        self._texts: dict[str, str] = {}
        self._versions: dict[str, Versions] = {}
        self._times: dict[str, str] = {}  # of lines that the ledger does not have
        self._journal = open_journal(storage, name, key)
        parts = list(storage.list(journal_stem(name)))
        self.changed = bool(parts)  # since the manifest was written
        for line, text in self._read(name):
            self._texts[line["file"]] = text
        for line, _ in self._read(_known_name(name)):
            first, second = line["versions"]
            self._versions[line["file"]] = (str(first), str(second))
        for part in parts:
            for line, _ in self._read(part):
                if key is not None and not is_signed(line, key):
                    continue
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
        file, text = line["file"], text_of(line)
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
        if self._texts.get(file) == text_of(line) and self._versions.get(file) == versions:
            return
        self.changed = True
        self._remember(line, versions, now())
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
        parts = self._storage.list(journal_stem(self.name))
        for name in (self.name, _known_name(self.name), *parts):
            self._storage.delete(name)

    def settle(self) -> None:
        """Keep the versions and drop the journal, once the manifest is written."""
        lines = (
            text_of({"file": file, "versions": pair})
            for file, pair in sorted(self._versions.items())
        )
        text = "".join(f"{line}\n" for line in lines)
        self._storage.write(_known_name(self.name), text.encode())
        self.flush()
        for part in self._storage.list(journal_stem(self.name)):
            self._storage.delete(part)


def _known_name(name: str) -> str:
    return f"{PRIVATE}{name.removesuffix('.jsonl')}.known.jsonl"
