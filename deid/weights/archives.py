"""One member out of an archive, and nothing else."""

import fnmatch
import gzip
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

from deid.errors import DeidError

_LARGEST_MEMBER = 4 << 30
_UNREADABLE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    RuntimeError,  # an encrypted member; its subclass NotImplementedError: an unknown method
)


def extract_member(archive: Path, pattern: str, out: Path) -> None:
    """Write the one member of a zip or tar.gz that matches `pattern` to `out`: its base name, or
    its whole path where the pattern has a slash.

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
    whole = "/" in pattern
    found = [
        name
        for name in names
        if fnmatch.fnmatchcase(name if whole else PurePosixPath(name).name, pattern)
    ]
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
