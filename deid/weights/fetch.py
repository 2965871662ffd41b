"""Brings a public weight file here: mirrors in turn, hash checked, license accepted and recorded.

The file appears under its name only when it is whole and verified. A killed fetch goes on where it
stopped.
"""

import fnmatch
import gzip
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from deid.errors import DeidError
from deid.weights.catalog import Source, WeightFile
from deid.weights.download import MirrorFault, Part, Patience, Report, download
from deid.weights.store import OFFLINE_VARIABLE, Store, check, remedy, verified, write_record

_TEXT = frozenset(range(0x20, 0x7F)) | {0x09, 0x0A, 0x0D}
_LARGEST_MEMBER = 4 << 30
_UNREADABLE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    RuntimeError,  # an encrypted member; its subclass NotImplementedError: an unknown method
)


def must_accept(entry: WeightFile) -> bool:
    """Whether a person has to accept the license by name, since it forbids some uses."""
    return not entry.commercial


def fetch(
    entry: WeightFile,
    store: Store,
    accepted: str | None = None,
    report: Report = lambda done, total: None,
    patience: Patience | None = None,
) -> Path:
    """The verified file, downloaded unless it is here already.

    `accepted` says how the person agreed to the license, for the record; None where they did not.
    Raises DeidError, in one line that names every address tried and what was wrong with it.
    """
    target = store.path(entry)
    if target.exists():  # even where it is wrong, a person's file is never overwritten
        return verified(entry, store)
    if store.offline or not entry.sources:
        raise DeidError(f"{target}: missing; {remedy(entry, store)}")
    if must_accept(entry) and accepted is None:
        raise DeidError(
            f"{entry.name}: its license ({entry.license}) must be accepted; read it, then add "
            "--accept-license"
        )
    store.folder.mkdir(parents=True, exist_ok=True)
    with _alone(target):
        _from_mirrors(entry, store, accepted or "not required", report, patience or Patience())
    return target


def _from_mirrors(
    entry: WeightFile, store: Store, accepted: str, report: Report, patience: Patience
) -> None:
    target = store.path(entry)
    part = Part(target.with_name(f"{target.name}.part"))
    # What an earlier call began is worth most where it came from.
    sources = sorted(entry.sources, key=lambda source: source.url != part.url)
    faults = []
    for source in sources:
        try:
            download(source.url, part, patience, report)
            sha256 = _settle(entry, source, part, store)
        except MirrorFault as fault:
            faults.append(f"{source.url}: {fault}")
            continue
        known = {"url": source.url, "sha256": sha256, "size": target.stat().st_size}
        write_record(entry, store, known | {"accepted": accepted})
        return
    by_hand = f", or get it by hand ({entry.by_hand})" if entry.by_hand else ""
    raise DeidError(
        f"{entry.name}: no address serves it ({'; '.join(faults)}); run the same command again "
        f"later to go on{by_hand}, or put {entry.file} into a folder and name it in "
        f"{OFFLINE_VARIABLE}"
    )


def _settle(entry: WeightFile, source: Source, part: Part, store: Store) -> str:
    """Verify what was downloaded and give it its name; its SHA-256. Else discard it and raise."""
    target = store.path(entry)
    fresh = part.path
    try:
        if source.member is not None:
            fresh = target.with_name(f".{target.name}.tmp")
            extract_member(part.path, source.member, fresh)
        _refuse_text(fresh)
        sha256 = check(entry, fresh, store)
        _sync(fresh)
        fresh.replace(target)
    except DeidError as error:
        part.discard()
        raise MirrorFault(f"wrong bytes ({str(error).partition(';')[0]})") from None
    finally:
        if fresh != part.path:
            fresh.unlink(missing_ok=True)
    part.discard()
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


def extract_member(archive: Path, pattern: str, out: Path) -> None:
    """Write the one member of a zip or tar.gz whose base name matches `pattern` to `out`.

    Only `out` is ever written, whatever the archive's names say; names that lead out of it, links
    and devices are refused (DeidError), as are archives with no or several matches.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                _copy(*_zip_member(opened, archive, pattern), out, archive)
        else:
            with tarfile.open(archive) as opened_tar:
                _copy(*_tar_member(opened_tar, archive, pattern), out, archive)
    except _UNREADABLE as error:
        raise DeidError(f"{archive.name}: not a readable archive ({error}); get it again") from None


def _zip_member(opened: zipfile.ZipFile, archive: Path, pattern: str) -> tuple[IO[bytes], int]:
    infos = {info.filename: info for info in opened.infolist() if not info.is_dir()}
    if len(infos) < sum(not info.is_dir() for info in opened.infolist()):
        raise DeidError(f"{archive.name}: holds a name twice; get it elsewhere")
    info = infos[_only(list(infos), archive, pattern)]
    if (info.external_attr >> 16) & 0o170000 not in (0, 0o100000):
        raise DeidError(f"{archive.name}: {info.filename} is no plain file; get it elsewhere")
    return opened.open(info), info.file_size


def _tar_member(opened: tarfile.TarFile, archive: Path, pattern: str) -> tuple[IO[bytes], int]:
    infos = {info.name: info for info in opened.getmembers() if not info.isdir()}
    info = infos[_only(list(infos), archive, pattern)]
    content = opened.extractfile(info) if info.isreg() else None
    if content is None:
        raise DeidError(f"{archive.name}: {info.name} is no plain file; get it elsewhere")
    return content, info.size


def _only(names: list[str], archive: Path, pattern: str) -> str:
    found = [name for name in names if fnmatch.fnmatchcase(PurePosixPath(name).name, pattern)]
    if len(found) != 1:
        raise DeidError(f"{archive.name}: {len(found)} members match {pattern}, not one")
    path = PurePosixPath(found[0].replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise DeidError(f"{archive.name}: {found[0]!r} leads out of the archive; get it elsewhere")
    return found[0]


def _copy(content: IO[bytes], size: int, out: Path, archive: Path) -> None:
    if size > _LARGEST_MEMBER:
        raise DeidError(f"{archive.name}: its member claims {size} bytes; get it elsewhere")
    with content, out.open("wb") as file:
        shutil.copyfileobj(content, file, 1 << 20)
    if out.stat().st_size != size:
        raise DeidError(f"{archive.name}: its member is cut short; get it again")
