"""Brings a public weight file here: mirrors in turn, hash checked, license accepted and recorded.

The file appears under its name only when it is whole and verified. A killed fetch goes on where it
stopped.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deid.errors import DeidError
from deid.weights.archives import extract_member
from deid.weights.download import MirrorFault, Part, Patience, Report, download
from deid.weights.entry import Source, WeightFile
from deid.weights.packages import package
from deid.weights.store import OFFLINE_VARIABLE, Store, check, remedy, verified, write_record

_TEXT = frozenset(range(0x20, 0x7F)) | {0x09, 0x0A, 0x0D}


def must_accept(entry: WeightFile) -> bool:
    """Whether a person has to accept the license by name, since it forbids some uses."""
    return not entry.commercial


def fetch(
    entry: WeightFile,
    store: Store,
    accepted: str | None = None,
    report: Report = lambda done, total: None,
    patience: Patience | None = None,
    archives: Path | None = None,
) -> Path:
    """The verified file, downloaded unless it is here already.

    `accepted` says how the person agreed to the license, for the record; None where they did not.
    `archives` is where archives stay for further calls (`shared_archives`); None: none stays.
    Raises DeidError, in one line that names every address tried and what was wrong with it.
    """
    target = store.path(entry)
    if target.exists():  # even where it is wrong, a person's file is never overwritten
        return verified(entry, store)
    if store.offline or not entry.sources:
        raise DeidError(f"{target}: missing; {remedy(entry, store)}")
    if must_accept(entry) and accepted is None:
        raise DeidError(
            f"{entry.name}: its license ({entry.license}) must be accepted; read it "
            f"({entry.license_page}), then add --accept-license"
        )
    store.folder.mkdir(parents=True, exist_ok=True)
    own = target.with_name(f".{target.name}.archive")
    with _alone(target):
        mirrors = _Mirrors(entry, store, archives or own, report, patience or Patience())
        known = mirrors.first_that_serves()
        write_record(entry, store, known | {"accepted": accepted or "not required"})
        shutil.rmtree(own, ignore_errors=True)
    return target


@contextmanager
def shared_archives(store: Store) -> Iterator[Path | None]:
    """A folder for `fetch`, so that files of one archive need one download; removed at the end.

    What a killed process left in it is used by the next. None while another process has it.
    """
    from filelock import FileLock, Timeout

    folder = store.folder / ".archives"
    store.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(".archives.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield None
        return
    try:
        yield folder
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        lock.release()


@dataclass(frozen=True)
class _Mirrors:
    """The sources of one file, to be tried in turn."""

    entry: WeightFile
    store: Store
    archives: Path
    report: Report
    patience: Patience

    def first_that_serves(self) -> dict[str, Any]:
        """Bring the file from the first source that has it; `url`, `sha256`, `size`."""
        entry, target = self.entry, self.store.path(self.entry)
        faults = []
        # What an earlier call began is worth most where it came from.
        for source in sorted(entry.sources, key=lambda source: not self._begun(source)):
            try:
                sha256 = self._bring(source)
            except MirrorFault as fault:
                faults.append(f"{source.url}: {fault}")
                continue
            return {"url": source.url, "sha256": sha256, "size": target.stat().st_size}
        by_hand = f", or get it by hand ({entry.by_hand})" if entry.by_hand else ""
        raise DeidError(
            f"{entry.name}: no address serves it ({'; '.join(faults)}); run the same command again "
            f"later to resume{by_hand}, or put {entry.file} into a folder and name it in "
            f"{OFFLINE_VARIABLE}"
        )

    def _part(self, source: Source) -> Part:
        target = self.store.path(self.entry)
        if source.member is None:
            return Part(target.with_name(f"{target.name}.part"))
        return Part(self.archives / f"{source.url.rpartition('/')[2]}.part")

    def _begun(self, source: Source) -> bool:
        return not source.is_package and self._part(source).url == source.url

    def _bring(self, source: Source) -> str:
        """The file under its name, verified; its SHA-256. MirrorFault where that cannot be."""
        if source.is_package:
            return self._settle(source, package(source.url, self.archives))
        part = self._part(source)
        part.path.parent.mkdir(parents=True, exist_ok=True)
        download(source.url, part, self.patience, self.report)
        try:
            sha256 = self._settle(source, part.path)
        except MirrorFault:
            part.discard()
            raise
        if source.member is None:
            part.discard()
        return sha256

    def _settle(self, source: Source, fresh: Path) -> str:
        """Take the member out, verify and rename; `fresh` is what the source served."""
        target = self.store.path(self.entry)
        member = target.with_name(f".{target.name}.tmp")
        try:
            if source.member is not None:
                extract_member(fresh, source.member, member)
                fresh = member
            if self.entry.sha256 is None:
                _refuse_text(fresh)
            sha256 = check(self.entry, fresh, self.store)
            _sync(fresh)
            fresh.replace(target)
        except DeidError as error:
            raise MirrorFault(f"wrong bytes ({str(error).partition(';')[0]})") from None
        finally:
            member.unlink(missing_ok=True)
        return sha256


def _refuse_text(path: Path) -> None:
    """Dead links answer with pages, pointers and messages; weights are never plain text."""
    with path.open("rb") as file:
        head = file.read(512)
    if set(head) <= _TEXT:
        raise DeidError(f"{path.name}: empty or text, not weights; get it again")


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Keep a second process from writing the same file; the system frees the lock of a dead one."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(target.with_name(f".{target.name}.lock"), timeout=0):
            yield
    except Timeout:
        raise DeidError(f"{target}: another process is fetching it; wait for it") from None
