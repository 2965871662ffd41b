"""A batch: every input brought to exactly one end, from any storage to any storage.

Every input ends as one of: written, quarantined (with a reason), skipped (not a picture), or done
already. Quarantine copies nothing: the original stays where it is, untouched; no output does,
unless the input could not be read and nobody knows that it changed. A batch that was killed, or
whose storage failed, resumes when it is run again; what comes of it then is the same bytes as if
nothing had happened, whichever process did the work and in which order.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from deid.audit.keys import signing_key
from deid.audit.seal import SEAL, seal
from deid.batch.executor import Executor, InProcess
from deid.batch.journal import NAME, Journal
from deid.batch.manifest import Records
from deid.batch.outcome import Outcome, content_sha256
from deid.batch.plan import Locations, Plan, list_inputs, locate, make_plan
from deid.batch.previews import keep_previews_apart, refuse_previews
from deid.batch.summary import Summary
from deid.batch.trust import PENDING, is_settled, refuse_another_source, refuse_untrusted
from deid.errors import DeidError
from deid.progress import progress
from deid.storage.local import LocalStorage
from deid.storage.protocol import Storage, StorageFailure

if TYPE_CHECKING:
    from deid.batch.pipeline import Pipeline

MOST_UNREACHABLE = 20  # inputs in a row that a storage does not give before the batch ends


def run_batch(
    locations: Locations,
    start: Callable[[Locations], Executor],
    prune: bool = False,
    retry: bool = False,
    may_be_empty: bool = False,
) -> Summary:
    """A whole batch. `DeidError` when a storage fails: what was done by then stays done.

    With `prune`, outputs of inputs that the source no longer has are removed; with `retry`, what an
    earlier run quarantined is tried again. A source without a picture is an error, unless it
    `may_be_empty`, as an inbox is; nothing is pruned then: a disk that is not there looks the same.
    """
    key = signing_key()  # one that cannot sign is better known before the work than after it
    inputs = list_inputs(locations, may_be_empty)
    with start(locations) as executor, exclusive(locations):
        info = executor.info
        settled = is_settled(locations.audit, info.manifest, key)
        if not settled:
            refuse_untrusted(locations.audit, key)
        keep_previews_apart(locations, info.manifest, inputs)
        records = Records(locations.audit, info.manifest, key)
        refuse_another_source(locations, records)
        plan = make_plan(locations, inputs, records, info, retry)
        refuse_previews(locations, inputs, records, plan.previews)
        notes = *info.notes, *plan.notes, *_remove_gone(locations, records, plan, prune)
        record = f"{locations.audit}/{records.name}"
        summary = Summary(record, +Counter(done=plan.known), notes=notes)
        for name in plan.hopeless:
            summary.add(Outcome("quarantined", records.last(name) or {}, ("", "")))
        with progress("de-identify", plan.inputs, plan.known) as bar:
            outcomes = itertools.chain(plan.refusals, executor.work(plan.tasks(records)))
            for outcome in recorded(outcomes, records):
                summary.add(outcome)
                bar.advance()
        if records.changed or not settled:
            finalize(locations, records)
    if summary.counts.total() != plan.inputs:
        raise RuntimeError(f"{plan.inputs} inputs, but {dict(summary.counts)}")
    return summary


def recorded(outcomes: Iterator[Outcome], journal: Journal) -> Iterator[Outcome]:
    """Pass outcomes on once they are on record; ends the batch when a storage gives no more."""
    unreachable = 0
    try:
        for outcome in outcomes:
            journal.append(outcome.line, outcome.versions)
            yield outcome
            unreachable = unreachable + 1 if outcome.unreachable else 0
            if unreachable >= MOST_UNREACHABLE:
                raise StorageFailure(f"{unreachable} inputs in a row: {outcome.line['reason']}")
    except BaseException:
        with suppress(DeidError):  # the first error says more; what has no line is done again
            journal.flush()
        raise
    journal.flush()


def finalize(locations: Locations, records: Records) -> None:
    """Give the record of a batch its final form, and seal it; of a dry run there is no proof."""
    records.flush(trace=True)
    audit, key = locations.audit, signing_key()
    if records.name == NAME:
        files = seal(list(records.all()), _reader(locations), key)
    else:
        files = {records.name: records.manifest()}
    pending = {PENDING: files[SEAL]} if key is not None and SEAL in files else {}
    for name, data in (pending | files).items():
        audit.write(name, data)
    records.settle()
    for name in pending:
        audit.delete(name)


def _reader(locations: Locations) -> Callable[[str], bytes]:
    """Reads outputs as `seal` wants it."""

    def read(name: str) -> bytes:
        try:
            return locations.destination.read(name)
        except DeidError as error:
            raise OSError(str(error)) from None

    return read


@contextmanager
def exclusive(locations: Locations) -> Iterator[None]:
    """See that results can be written, keep other runs out, and clear what a killed run left
    half-written. A single picture has only its own records to itself: its folder may be anyone's.
    """
    audit, destination = locations.audit, locations.destination
    both = locations.single is None and str(audit) != str(destination)
    with audit.exclusive(), destination.exclusive() if both else nullcontext():
        for storage in {str(s): s for s in (destination, audit)}.values():
            if isinstance(storage, LocalStorage):
                alone = storage is destination and locations.single
                storage.clean(str(PurePosixPath(alone[1]).parent) if alone else None)
        yield


def _remove_gone(
    locations: Locations, records: Records, plan: Plan, prune: bool
) -> tuple[str, ...]:
    """Outputs and records of inputs that are no longer there, if asked and any others are; else a
    note of them."""
    gone = plan.gone
    if not gone or locations.single is not None:
        return ()
    if not prune or not plan.inputs:
        return (f"note: {len(gone)} inputs on record are gone; --prune removes their outputs",)
    kept = 0
    for name in gone:
        line = records.last(name) or {}
        if _removed(locations.destination, line.get("output"), line.get("output_sha256")):
            records.forget(name)
        else:
            kept += 1
    changed = f"; {kept} were changed since and stay" if kept else ""
    return (f"note: outputs of {len(gone) - kept} inputs that are gone were removed{changed}",)


def _removed(destination: Storage, output: str | None, sha256: str | None) -> bool:
    """Whether nothing of a record's output is left; what is somebody's other file by now stays, and
    so does what lies behind a link or cannot be read."""
    try:
        present = content_sha256(destination, output) if output else None
    except StorageFailure:
        raise
    except DeidError:
        return False
    if output and present is not None and present == sha256:
        destination.delete(output)
        present = None
    return present is None


def deidentify_path(source: Path, destination: Path, pipeline: "Pipeline") -> Summary:
    """De-identify a picture or a folder of pictures into `destination`, in this process.

    A folder's tree is kept. A single picture goes to `destination` if that has a picture's suffix,
    else into it. `DeidError` for a missing source, a destination that is or holds the source, or
    one that cannot be written; a picture that cannot be made safe is quarantined, the others are
    still done.
    """
    locations = locate(str(source), str(destination))
    return run_batch(locations, lambda where: InProcess(pipeline, where))
