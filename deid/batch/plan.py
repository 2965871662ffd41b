"""Where a batch reads and writes, what its inputs are, and which of them are still to do."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from deid.audit.seal import recorded_name
from deid.batch.journal import Line
from deid.batch.manifest import PREVIEW_SUFFIX, PREVIEWS, Records, RunInfo
from deid.batch.outcome import Outcome, Task, refused
from deid.batch.settings import BatchSettings
from deid.errors import DeidError
from deid.imaging.formats import SUFFIXES
from deid.storage.locations import S3_SCHEME, inside, open_storage
from deid.storage.protocol import PRIVATE, Storage, is_safe

OTHER_PICTURES = frozenset(
    {".jxl", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"}
)


@dataclass(frozen=True)
class Locations:
    """Where a batch reads, writes, and keeps its records."""

    source: Storage
    destination: Storage
    audit: Storage
    single: tuple[str, str] | None = None  # the one input there is, and its output's name
    shielded: str = ""  # the destination, where it lies in the source: its files are no inputs


def locate(source: str, destination: str, settings: BatchSettings | None = None) -> Locations:
    """The storages of a run from `source`, a picture or a folder of them, into `destination`.

    Each may be a path or `s3://bucket/prefix`. Records go to `settings.audit` or else to the
    destination: those of a folder beside its outputs, those of a single picture to a hidden folder
    of their own. `DeidError` for a source that is not there and a destination that holds it.
    """
    settings = settings or BatchSettings()
    if inside(source, destination) is not None:
        raise DeidError(f"{destination}: holds the originals; choose another destination")
    encryption, audit = settings.encryption, settings.audit
    if audit and inside(source, audit) is not None:
        raise DeidError(f"{audit}: holds the originals; choose another --audit")
    if encryption and not any((x or "").startswith(S3_SCHEME) for x in (destination, audit)):
        raise DeidError(f"encryption {encryption}: only S3 is asked for it, and none is written to")
    single = _single(source, destination)
    if single is None:
        if not source.startswith(S3_SCHEME) and not Path(source).is_dir():
            raise DeidError(f"{source}: no such file or folder; correct the path")
        shielded = inside(destination, source) or ""
        records, names = audit or destination, None
    else:
        source, name, destination, output = single
        shielded, names = "", (name, output)
        records = audit or records_of(destination, output)
    return Locations(
        open_storage(source),
        open_storage(destination, encryption),
        open_storage(records, encryption),
        names,
        shielded,
    )


ALONE = f"{PRIVATE}files/"
"""Where pictures that are done alone have their records, a folder each."""


def records_of(folder: str, output: str) -> str:
    """Where the records of a single picture are: in a folder that may hold anything else."""
    return f"{folder.rstrip('/')}/{ALONE}{output}"


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
class Inputs:
    """Name → version of every file, and name → what it is of everything else."""

    files: dict[str, str]
    others: dict[str, str]

    def __len__(self) -> int:
        return len(self.files) + len(self.others)


def list_inputs(locations: Locations, may_be_empty: bool = False) -> Inputs:
    """What the source holds; `DeidError` where no picture is among it, unless it `may_be_empty`."""
    source = locations.source
    if locations.single is not None:
        name = locations.single[0]
        inputs = Inputs({name: source.version(name) or ""}, {})
    else:
        shield = f"{locations.shielded}/" if locations.shielded else ""
        files, others = source.list(), source.non_files()
        if shield:
            files = {n: version for n, version in files.items() if not n.startswith(shield)}
            others = {n: what for n, what in others.items() if not n.startswith(shield)}
        inputs = Inputs(files, others)
    if may_be_empty:
        return inputs
    skipped = Counter(inputs.others.values())
    for name in inputs.files:
        status, reason = refusal(name) or ("", "")
        if status != "skipped":
            return inputs
        skipped[reason] += 1
    told = ", ".join(f"{count} × {reason}" for reason, count in skipped.most_common())
    found = f"no picture among its files ({told})" if told else "nothing is there"
    place = locations.single[0] if locations.single else source
    raise DeidError(f"{place}: {found}; correct the path")


def refusal(name: str) -> tuple[str, str] | None:
    """Status and reason for an input that is not even read."""
    suffix = _suffix(name)
    if suffix not in SUFFIXES and suffix not in OTHER_PICTURES:
        return "skipped", "not a picture by its suffix"
    if not is_safe(name) or name.startswith(PRIVATE) or recorded_name(name) != name:
        return "quarantined", "not a plain name inside a folder; rename it"
    if suffix not in SUFFIXES:
        return "quarantined", f"format {suffix} is not supported; convert it to PNG or JPEG"
    return None


def _suffix(name: str) -> str:
    """`PurePosixPath(name).suffix.lower()`, which takes ten times as long."""
    last = name.rpartition("/")[2]
    dot = last.rfind(".")
    return last[dot:].lower() if 0 < dot < len(last) - 1 else ""


Todo = tuple[str, str, str, str | None]
"""Name and version of an input, name of its output, and the version of what has that name."""


@dataclass(frozen=True)
class Plan:
    """What there is to do. `inputs` is how many there are, `known` how many are done; `hopeless`
    are the names of those that were quarantined before and are not tried again."""

    inputs: int
    known: int
    refusals: tuple[Outcome, ...]
    todo: tuple[Todo, ...]
    gone: tuple[str, ...]  # names on record that the source no longer has
    hopeless: tuple[str, ...] = ()
    others: int = 0  # of the known, those that another version of the model made
    previews: tuple[str, ...] = ()  # files at the destination that by their names may be some

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know before the work."""
        notes = []
        if self.previews:
            may = "may show original faces"
            notes.append(f"note: {len(self.previews)} files named *{PREVIEW_SUFFIX} {may}")
        if self.others:
            by = "another version" if self.others == 1 else "other versions"
            again = "--update-model makes them again"
            notes.append(f"note: {self.others} done before by {by}; {again}")
        if self.hopeless:
            again = "not tried again; --retry-quarantined does"
            notes.append(f"note: {len(self.hopeless)} quarantined by an earlier run, {again}")
        return tuple(notes)

    def tasks(self, records: Records) -> Iterator[Task]:
        """One at a time, because a task has all that is known of its input."""
        return (_task(item, records) for item in self.todo)


def _task(item: Todo, records: Records) -> Task:
    """With what is on record by now."""
    name = item[0]
    return Task(*item, records.last(name), records.versions(name))


def make_plan(
    locations: Locations, inputs: Inputs, records: Records, info: RunInfo, retry: bool = False
) -> Plan:
    """Compare what is in the source with what is in the destination and on record.

    With `retry`, what an earlier run quarantined is tried again.
    """
    refusals: list[Outcome] = []
    hopeless: list[str] = []
    todo: list[Todo] = []
    others = 0
    present = _present(locations, info.suffix)

    def refuse(name: str, version: str, status: str, reason: str) -> None:
        last = _with_output(records, name, present)
        refusals.append(refused(name, version, status, reason, last))

    for name, what in inputs.others.items():
        refuse(name, "", "skipped", what)
    for name, version in inputs.files.items():
        output = (locations.single[1] if locations.single else name) + info.suffix
        reason = refusal(name) or (refusal(output) if locations.single else None)
        if reason:
            refuse(name, version, *reason)
            continue
        item = (name, version, output, present.get(output))
        task = _task(item, records)
        if not retry and task.is_hopeless(info):
            hopeless.append(name)
        elif not task.is_known(info):
            todo.append(item)
        elif task.content != info.content:
            others += 1
    known = len(inputs) - len(refusals) - len(todo) - len(hopeless)
    named = {*inputs.files, *inputs.others, *(outcome.line["file"] for outcome in refusals)}
    gone = tuple(sorted(records.names() - named))
    previews = () if info.manifest == PREVIEWS else _previews(locations, present)
    return Plan(
        len(inputs), known, tuple(refusals), tuple(todo), gone, tuple(hopeless), others, previews
    )


def _previews(locations: Locations, present: dict[str, str]) -> tuple[str, ...]:
    if locations.single is None:
        return tuple(name for name in present if name.endswith(PREVIEW_SUFFIX))
    preview = locations.single[1] + PREVIEW_SUFFIX  # the one; the rest of the folder is not ours
    return () if locations.destination.version(preview) is None else (preview,)


def _with_output(records: Records, name: str, present: dict[str, str]) -> Line | None:
    """The last record of an input, if an output is there that it tells of."""
    last = records.last(recorded_name(name)) or {}
    return last if last.get("output") in present else None


def _present(locations: Locations, suffix: str) -> dict[str, str]:
    if locations.single is None:
        return locations.destination.list()
    output = locations.single[1] + suffix
    version = locations.destination.version(output)
    return {} if version is None else {output: version}
