"""One input of a batch, from its bytes to its end: written, quarantined, or done already.

Everything that is done for one file is in here, so that the process that does it does not matter.
"""

import hashlib
import logging
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from deid.audit.seal import recorded_name
from deid.batch.journal import Line, Versions
from deid.batch.manifest import FileRecord, RunInfo
from deid.errors import DeidError
from deid.storage.protocol import Occupied, Storage, StorageFailure, Unreachable, Unread

if TYPE_CHECKING:  # the parent of a batch loads no network and need not wait for torch
    from deid.batch.pipeline import Pipeline

log = logging.getLogger(__name__)

_ADDRESS = re.compile(r"<[^<>]* at 0x[0-9a-f]+>")  # of an object; another one in each process
MAX_BYTES = 2**29  # of an encoded picture; the codec has a limit of its own for pixels


@dataclass(frozen=True)
class Task:
    """One input: its name and version, its output's name, what is known from earlier runs."""

    name: str
    version: str
    output: str
    occupied: str | None  # version of what lay at the output's name when the batch was planned
    last: Line | None
    versions: Versions | None  # when `last` was recorded

    def is_known(self, info: RunInfo) -> bool:
        """Done before under these settings, and neither input nor output touched since."""
        return self._has_record(info) and self.versions == (self.version, self.occupied)

    def is_done(self, info: RunInfo, input_sha256: str, destination: Storage) -> bool:
        """The same, told by the bytes: those of the output are read and hashed."""
        return (
            self.last is not None
            and self._has_record(info)
            and self.last.get("input_sha256") == input_sha256
            and content_sha256(destination, self.output) == self.last.get("output_sha256")
        )

    def is_hopeless(self, info: RunInfo) -> bool:
        """Quarantined before under these settings, for what is in it, and not touched since."""
        last, versions = self.last or {}, self.versions or ("", "")
        judged = last.get("status") == "quarantined" and last.get("settings") == info.settings
        return judged and versions[0] == self.version

    @property
    def content(self) -> str:
        """Hash of the model that made what is on record."""
        return str(((self.last or {}).get("origin") or {}).get("content_sha256", ""))

    def _has_record(self, info: RunInfo) -> bool:
        last = self.last or {}
        return (
            last.get("status") in ("written", "previewed")
            and last.get("settings") == info.settings
            and last.get("output") == self.output
            and (info.any_version or self.content == info.content)
        )


@dataclass(frozen=True)
class Outcome:
    """How an input ended. `word` is what it is counted under: its status, or "done"."""

    word: str
    line: Line
    versions: Versions
    unreachable: bool = False  # its storage did not give it


@dataclass(frozen=True)
class Writing:
    """Said before an output is written, so that what a process leaves that dies then is known."""

    sha256: str


def process_task(
    task: Task, pipeline: "Pipeline", source: Storage, destination: Storage
) -> Iterator[Writing | Outcome]:
    """De-identify one input and write its output: says what it is about to write, if anything, and
    at last how it ended. Raises nothing but `StorageFailure`."""
    try:
        data, version = source.fetch(task.name, MAX_BYTES)
    except StorageFailure:
        raise
    except Exception as error:
        record = FileRecord(task.name, "quarantined", error_text(error))
        if isinstance(error, Unread):
            lost = isinstance(error, Unreachable)
            yield replace(_not_read(task, record), unreachable=lost)
        else:
            yield _quarantined(task, record, destination)
        return
    task = replace(task, version=version)
    record = pipeline.blank_record(task.name, hashlib.sha256(data).hexdigest())
    try:
        if task.last and task.is_done(pipeline.info, record.input_sha256, destination):
            present = destination.version(task.output) or ""
            yield Outcome("done", task.last, (version, present))
            return
        suffix = PurePosixPath(task.output).suffix
        encoded, record = pipeline.process(record, data, suffix)
        sha256 = hashlib.sha256(encoded).hexdigest()
        record = replace(record, output=task.output, output_sha256=sha256)
        yield Writing(sha256)
        yield _published(task, record, encoded, destination)
    except StorageFailure:
        raise
    except Exception as error:
        log.debug("%s", task.name, exc_info=True)
        record = replace(record, status="quarantined", reason=error_text(error))
        if isinstance(error, MemoryError | OSError):  # the machine's fault, perhaps only today's
            record = replace(record, settings="")
        yield _quarantined(task, record, destination)


def give_up(
    task: Task, reason: str, destination: Storage, settings: str, written: str = ""
) -> Outcome:
    """The end of an input whose process died or hung; what that process wrote, whose SHA-256 it had
    said before (`written`), goes with it."""
    if problem := remove_leftover(task, written, destination):
        reason = f"{reason}; {problem}"
    record = FileRecord(task.name, "quarantined", reason, settings=settings)
    return _quarantined(task, record, destination)


def remove_leftover(task: Task, written: str, destination: Storage) -> str:
    """Remove what a dead process wrote, and nothing else that has come to the output's name; says
    what kept it from that, if anything. A process's last request may outlive it on its way to S3,
    so that this is worth a second look later."""
    try:
        present = written and destination.version(task.output) not in (None, task.occupied)
        if present and content_sha256(destination, task.output) == written:
            destination.delete(task.output)
    except StorageFailure:
        raise
    except DeidError as error:
        return error_text(error)
    return ""


def refused(name: str, version: str, status: str, reason: str, last: Line | None = None) -> Outcome:
    """The end of an input that is not even read. Its output of before, if `last` tells of one,
    stays on record: nobody has looked whether the input is another one than it was."""
    record = _with_output_of(last or {}, FileRecord(recorded_name(name), status, reason))
    return Outcome(status, asdict(record), (version, ""))


def _published(task: Task, record: FileRecord, encoded: bytes, destination: Storage) -> Outcome:
    present = destination.version(task.output)
    reason = "another file of its name is at the destination; choose another destination"
    try:
        if _is_free(task, destination, present, record.output_sha256):
            return _outcome(task, record, destination.replace(task.output, encoded, present))
    except Occupied as error:
        reason = str(error)
    taken = replace(
        record, status="quarantined", reason=reason, output="", output_sha256="", faces=()
    )
    return _outcome(task, replace(taken, settings=""))  # not for what is in it: tried again


def _quarantined(task: Task, record: FileRecord, destination: Storage) -> Outcome:
    """Quarantine; an output that an earlier run wrote for this input does not stay behind."""
    try:
        ours = (task.last or {}).get("output") == task.output
        if ours and _is_free(task, destination, destination.version(task.output), ""):
            destination.delete(task.output)
    except StorageFailure:
        raise
    except DeidError as error:
        record = replace(record, reason=f"{record.reason}; {error_text(error)}")
    return _outcome(task, record)


def _not_read(task: Task, record: FileRecord) -> Outcome:
    """Quarantine for now. What an earlier run wrote stays, on record: nobody knows that the input
    is another one than it was."""
    version = task.versions[1] if task.versions else ""
    return _outcome(task, _with_output_of(task.last or {}, record), version)


def _with_output_of(last: Line, record: FileRecord) -> FileRecord:
    kept = {name: last[name] for name in ("output", "output_sha256") if last.get(name)}
    if kept:
        record = replace(record, reason=f"{record.reason}; its output of before stays")
    return replace(record, **kept)


def _is_free(task: Task, destination: Storage, present: str | None, sha256: str) -> bool:
    """Whether nothing lies at the output's name, or what came from this input.

    That is known by its record, or by its bytes: a batch killed before it could record an output
    left the very same. `present` is the version of what lies there.
    """
    if present is None or (task.versions is not None and present == task.versions[1]):
        return True
    recorded = (task.last or {}).get("output_sha256")
    return content_sha256(destination, task.output) in {recorded, sha256} - {None, ""}


def content_sha256(storage: Storage, name: str) -> str | None:
    """Of what has this name; None for nothing."""
    if storage.version(name) is None:
        return None
    return hashlib.sha256(storage.read(name)).hexdigest()


def _outcome(task: Task, record: FileRecord, output_version: str = "") -> Outcome:
    return Outcome(record.status, asdict(record), (task.version, output_version))


def error_text(error: Exception) -> str:
    """An exception as the reason in a record: one line."""
    if isinstance(error, DeidError):
        text = str(error)
    elif isinstance(error, OSError):
        text = f"not readable ({error.strerror or error})"
    else:
        text = f"{type(error).__name__}: {error}"
    return " ".join(_ADDRESS.sub("", text).split())[:300]
