"""A batch: every input brought to exactly one end, from any storage to any storage.

Every input ends as one of: written, quarantined (no output, with a reason), skipped (not a
picture), or done already. Quarantine copies nothing: the original stays where it is, untouched. A
batch that was killed, or whose storage failed, goes on when it is run again; what came of it then
is the same bytes as if nothing had happened, whoever did the work and in which order.
"""

import fcntl
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Protocol, Self

from deid.audit.keys import key_from_environment
from deid.audit.seal import seal
from deid.batch.manifest import NAME, Journal, Records
from deid.batch.outcome import Outcome, Task, refused
from deid.errors import DeidError
from deid.imaging.codec import SUFFIXES
from deid.progress import progress
from deid.storage.local import (
    PRIVATE,
    S3_SCHEME,
    TEMPORARY,
    LocalStorage,
    Storage,
    StorageFailure,
    inside,
    is_safe,
    open_storage,
)

OTHER_PICTURES = frozenset(
    {".jp2", ".jxl", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"}
)
PATIENCE = 20  # inputs in a row that a storage does not give before the batch ends


@dataclass(frozen=True)
class Places:
    """Where a batch reads, writes, and keeps its records."""

    source: Storage
    destination: Storage
    audit: Storage
    single: tuple[str, str] | None = None  # the one input there is, and its output's name
    shielded: str = ""  # the destination, where it lies in the source: its files are no inputs


@dataclass(frozen=True)
class About:
    """What a crew says of itself before it gets any work."""

    settings: str  # fingerprint of everything that shapes an output
    manifest: str = NAME
    suffix: str = ""  # what an output's name has beyond the input's
    notes: tuple[str, ...] = ()


class Crew(Protocol):
    """Who does the work; ready within the block."""

    @property
    def about(self) -> About: ...

    def work(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """The outcome of each task, in any order; takes no more tasks than it works on."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@dataclass
class Summary:
    """Counts of a batch; `failed` means that the command must not exit with 0."""

    record: str  # where the manifest is
    counts: Counter[str] = field(default_factory=Counter)
    rungs: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)  # the first few
    notes: tuple[str, ...] = ()

    MOST_PROBLEMS = 10

    @property
    def failed(self) -> bool:
        """Whether any picture was withheld."""
        return self.counts["quarantined"] > 0

    def add(self, outcome: Outcome) -> None:
        """Count one input."""
        self.counts[outcome.word] += 1
        if outcome.word != "done":
            self.rungs.update(face["method"] for face in outcome.line["faces"])
        if outcome.word == "quarantined" and len(self.problems) < self.MOST_PROBLEMS:
            self.problems.append(f"{shown(outcome.line['file'])}: {outcome.line['reason']}")

    def text(self) -> str:
        """What a person reads at the end: counts, rungs, the first problems."""
        c = self.counts
        previewed = f"{c['previewed']} previewed, " if c["previewed"] else ""
        lines = [
            f"{c['written']} written, {previewed}{c['done']} done before, "
            f"{c['quarantined']} quarantined, {c['skipped']} skipped; {self.record}",
        ]
        if self.rungs:
            rungs = ", ".join(f"{count} by {rung}" for rung, count in sorted(self.rungs.items()))
            lines.append(f"faces: {rungs}")
        lines += self.problems
        if c["quarantined"] > len(self.problems):
            lines.append(f"… and {c['quarantined'] - len(self.problems)} more in the manifest")
        return "\n".join([*lines, *self.notes])


def shown(name: str) -> str:
    """A name as one line that a terminal cannot take for anything else."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name
    )


def locate(
    source: str, destination: str, audit: str | None = None, encryption: str | None = None
) -> Places:
    """The storages of a run from `source`, a picture or a folder of them, into `destination`.

    Each may be a path or `s3://bucket/prefix`; the records go to `audit` or else to the
    destination. `DeidError` for a source that is not there and a destination that holds it.
    """
    if inside(source, destination) is not None:
        raise DeidError(f"{destination}: holds the originals; choose another destination")
    single = _single(source, destination)
    if single is None:
        if not source.startswith(S3_SCHEME) and not Path(source).is_dir():
            raise DeidError(f"{source}: no such file or folder; correct the path")
        come_from, shielded = open_storage(source), inside(destination, source) or ""
    else:
        parent, name, folder, output = single
        come_from, destination, shielded = open_storage(parent), folder, ""
        single_names = (name, output)
    go_to = open_storage(destination, encryption)
    records = go_to if audit is None else open_storage(audit, encryption)
    return Places(come_from, go_to, records, single_names if single else None, shielded)


def _single(source: str, destination: str) -> tuple[str, str, str, str] | None:
    """Folder and name of the one input, folder and name of its output; None for a folder."""
    local = not source.startswith(S3_SCHEME)
    if local:
        if not Path(source).is_file():
            return None
        source = str(Path(source).resolve())
    elif PurePosixPath(source).suffix.lower() not in SUFFIXES:
        return None
    parent, _, name = source.rpartition("/")
    if not local and open_storage(parent).version(name) is None:
        return None
    named = PurePosixPath(destination).suffix.lower() in SUFFIXES
    if not named or (not destination.startswith(S3_SCHEME) and Path(destination).is_dir()):
        folder, output = destination, name
    else:
        folder, _, output = str(destination).rpartition("/")
        folder = folder or ("/" if destination.startswith("/") else ".")
    target = Path(folder, output)
    if local and not folder.startswith(S3_SCHEME) and target.exists() and target.samefile(source):
        raise DeidError(f"{target}: is the original; choose another destination")
    return parent or "/", name, folder, output


@dataclass(frozen=True)
class Plan:
    """What there is to do. `inputs` is how many there are, `known` how many need nothing."""

    inputs: int
    known: int
    refusals: tuple[Outcome, ...]
    todo: tuple[tuple[str, str, str, str | None], ...]  # name, version, output, its version

    def tasks(self, records: Records) -> Iterator[Task]:
        """One at a time, because a task has all that is known of its input."""
        for name, version, output, occupied in self.todo:
            yield Task(name, version, output, occupied, records.last(name), records.versions(name))


def plan(places: Places, records: Records, about: About) -> Plan:
    """Compare what is in the source with what is in the destination and on record."""
    refusals: list[Outcome] = []
    todo: list[tuple[str, str, str, str | None]] = []
    present = _present(places, about.suffix)
    inputs, strangers = _inputs(places)
    for name, what in strangers.items():
        refusals.append(refused(name, "", "skipped", what))
    for name, version in inputs.items():
        refusal = _refusal(name)
        if refusal:
            refusals.append(refused(name, version, *refusal))
            continue
        output = (places.single[1] if places.single else name) + about.suffix
        task = Task(
            name, version, output, present.get(output), records.last(name), records.versions(name)
        )
        if not task.is_known(about.settings):
            todo.append((name, version, output, present.get(output)))
    total = len(inputs) + len(strangers)
    return Plan(total, total - len(refusals) - len(todo), tuple(refusals), tuple(todo))


def _present(places: Places, suffix: str) -> dict[str, str]:
    if places.single is None:
        return places.destination.list()
    output = places.single[1] + suffix
    version = places.destination.version(output)
    return {} if version is None else {output: version}


def _inputs(places: Places) -> tuple[dict[str, str], dict[str, str]]:
    """Name → version of every file, and name → what it is of everything else."""
    if places.single is not None:
        name = places.single[0]
        return {name: places.source.version(name) or ""}, {}
    shield = f"{places.shielded}/"
    files, others = places.source.list(), places.source.strangers()
    if places.shielded:
        files = {name: v for name, v in files.items() if not name.startswith(shield)}
        others = {name: what for name, what in others.items() if not name.startswith(shield)}
    return files, others


def _refusal(name: str) -> tuple[str, str] | None:
    """Status and reason for an input that is not even read."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in SUFFIXES | OTHER_PICTURES:
        return "skipped", "not a picture by its suffix"
    if not is_safe(name) or name.startswith(PRIVATE):
        return "quarantined", "not a plain name inside a folder; rename it"
    if suffix not in SUFFIXES:
        return "quarantined", f"format {suffix} is not supported; convert it to PNG or JPEG"
    return None


def run_batch(places: Places, hire: Callable[[Places], Crew]) -> Summary:
    """A whole batch. `DeidError` when a storage fails: what was done by then stays done."""
    with hire(places) as crew, alone(places):
        records = Records(places.audit, crew.about.manifest)
        planned = plan(places, records, crew.about)
        record = f"{places.audit}/{records.name}"
        summary = Summary(record, +Counter(done=planned.known), notes=crew.about.notes)
        with progress("de-identify", planned.inputs, planned.known) as bar:
            outcomes = itertools.chain(planned.refusals, crew.work(planned.tasks(records)))
            for outcome in recorded(outcomes, records):
                summary.add(outcome)
                bar.advance()
        close(places, records)
    if summary.counts.total() != planned.inputs:
        raise RuntimeError(f"{planned.inputs} inputs, but {dict(summary.counts)}")
    return summary


def recorded(outcomes: Iterator[Outcome], journal: Journal) -> Iterator[Outcome]:
    """Pass outcomes on once they are on record; ends the batch when a storage gives no more."""
    unreachable = 0
    try:
        for outcome in outcomes:
            journal.append(outcome.line, outcome.versions)
            yield outcome
            unreachable = unreachable + 1 if outcome.unreachable else 0
            if unreachable >= PATIENCE:
                raise StorageFailure(f"{unreachable} inputs in a row: {outcome.line['reason']}")
    except BaseException:
        with suppress(DeidError):  # the first error says more; what has no line is done again
            journal.flush()
        raise
    journal.flush()


def close(places: Places, records: Records) -> None:
    """Give the record of a batch its final form, and seal it; of a dry run there is no proof."""
    if records.name == NAME:
        files = seal(list(records.all()), _reader(places.destination), key_from_environment())
    else:
        files = {records.name: records.manifest()}
    for name, data in files.items():
        places.audit.write(name, data)
    records.settle()


def _reader(storage: Storage) -> Callable[[str], bytes]:
    """Reads as `seal` wants it."""

    def read(name: str) -> bytes:
        try:
            return storage.read(name)
        except DeidError as error:
            raise OSError(str(error)) from None

    return read


@contextmanager
def alone(places: Places) -> Iterator[None]:
    """See that the places can be written to, clear what a killed run left half-written there, and
    keep a second run out of a local destination."""
    key_from_environment()  # one that cannot sign is better known before the work than after it
    with _locked(places.destination):
        for storage in {id(s): s for s in (places.destination, places.audit)}.values():
            storage.write(".deid-probe", b"")
            storage.delete(".deid-probe")
            if isinstance(storage, LocalStorage):
                for name in storage.list():
                    if TEMPORARY.fullmatch(name):
                        storage.delete(name)
        yield


@contextmanager
def _locked(storage: Storage) -> Iterator[None]:
    if not isinstance(storage, LocalStorage):
        yield
        return
    try:
        storage.root.mkdir(parents=True, exist_ok=True)
        handle = os.open(storage.root, os.O_RDONLY)
    except OSError as error:
        raise StorageFailure(
            f"{storage.root}: cannot be written ({error.strerror}); choose another destination"
        ) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise DeidError(f"{storage.root}: another run is at work there; wait for its end") from None
    finally:
        os.close(handle)
