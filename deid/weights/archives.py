"""Bounded readers: of files as they are, and of archives, one member and no more."""

import fnmatch
import gzip
import io
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from deid.errors import DeidError

_RATIO, _SPARE = 50, 1 << 20
"""Weights hardly shrink: who unpacks to more times the archive's bytes is a bomb."""
_MEMBERS = 10_000

_UNREADABLE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    RuntimeError,  # an encrypted member; its subclass NotImplementedError: an unknown method
    TypeError,  # of tarfile, as ValueError, for damaged headers
    ValueError,
)


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of `path`; DeidError where they are more than `limit` or cannot be read."""
    try:
        if path.stat().st_size > limit:
            raise DeidError(f"{path.name} has over {limit >> 20} MiB; is it the right file?")
        if not path.is_file():  # a pipe would never end
            raise DeidError(f"{path.name}: not a file")
        return path.read_bytes()
    except OSError as error:
        raise DeidError(f"{path.name}: cannot be read ({error.strerror or error})") from None


def extract_member(archive: Path, pattern: str, out: Path) -> None:
    """Write the one member of a zip or tar.gz that matches `pattern` to `out`: its base name, or
    its whole path where the pattern has a slash.

    Only `out` is ever written, whatever the archive's names say; names that lead out of it, links
    and devices are refused (DeidError), as are archives with no or several matches, and those that
    unpack to far more than they are.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                _copy(*_zip_member(opened, archive, pattern), out, archive)
        else:
            with open_tar(archive, seek=True) as opened_tar:
                _copy(*_tar_member(opened_tar, archive, pattern), out, archive)
    except _UNREADABLE as error:
        raise DeidError(f"{archive.name}: not a readable archive ({error}); get it again") from None


@contextmanager
def open_tar(path: Path, seek: bool = False) -> Iterator[tarfile.TarFile]:
    """A tar or tar.gz; with `seek`, members can be read again. DeidError where it unpacks to too
    much: names and headers count as well, which have no limit of their own."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream: Any = gzip.GzipFile(fileobj=file) if packed else file
        bounded = _Bounded(stream, _RATIO * path.stat().st_size + _SPARE)
        try:
            if seek:
                with tarfile.open(fileobj=bounded, mode="r:") as archive:
                    yield archive
            else:
                with tarfile.open(fileobj=bounded, mode="r|") as archive:
                    yield archive
        except _Bomb:
            raise DeidError(f"{path.name}: unpacks to far more than it is; refused") from None


class _Bomb(Exception):
    """More came out of an archive than its size explains."""


class _Bounded(io.RawIOBase):
    """A stream of which no more than `left` bytes are read in all."""

    def __init__(self, stream: Any, left: int) -> None:
        self.stream, self.left = stream, left

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == io.SEEK_SET:  # in a tar.gz, all between is unpacked
            self._spend(offset - self.tell())
        return int(self.stream.seek(offset, whence))

    def tell(self) -> int:
        return int(self.stream.tell())

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > self.left:
            raise _Bomb
        data = bytes(self.stream.read(size))
        self._spend(len(data))
        return data

    def _spend(self, count: int) -> None:
        self.left -= max(count, 0)
        if self.left < 0:
            raise _Bomb


def _zip_member(opened: zipfile.ZipFile, archive: Path, pattern: str) -> tuple[IO[bytes], int]:
    files = [info for info in opened.infolist() if not info.is_dir()]
    infos = {info.filename: info for info in files}
    if len(infos) < len(files):
        raise DeidError(f"{archive.name}: holds a name twice; get it elsewhere")
    info = infos[_only(list(infos), archive, pattern)]
    if (info.external_attr >> 16) & 0o170000 not in (0, 0o100000):
        raise DeidError(f"{archive.name}: {info.filename} is no plain file; get it elsewhere")
    if info.file_size > _RATIO * archive.stat().st_size + _SPARE:
        raise DeidError(f"{archive.name}: unpacks to far more than it is; refused")
    return opened.open(info), info.file_size


def _tar_member(opened: tarfile.TarFile, archive: Path, pattern: str) -> tuple[IO[bytes], int]:
    infos = {}
    for count, info in enumerate(opened):
        if count == _MEMBERS:
            raise DeidError(
                f"{archive.name}: over {_MEMBERS} members, which no package has; refused"
            )
        if not info.isdir():
            infos[info.name] = info
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
    with content, out.open("wb") as file:
        shutil.copyfileobj(content, file, 1 << 20)
    if out.stat().st_size != size:
        raise DeidError(f"{archive.name}: its member is cut short; get it again")
