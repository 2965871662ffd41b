"""Where pictures come from and go to: a local folder or an `s3://bucket/prefix`, one interface.

Names are relative, with `/`. A name's version changes whenever its bytes do, and is cheap to ask
for: of a file it is a digest of its size, inode and times of change (the second of which no
program can set back), of an S3 object its ETag. Writes appear whole or not at all, and are on the
disk when `write` returns. Links are never followed.
"""

import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol

from deid.errors import DeidError

S3_SCHEME = "s3://"
PRIVATE = ".deid/"  # beside the outputs: what only later batches read
TEMPORARY = re.compile(r"(.*/)?\.deid-[0-9a-f]{16}\.tmp")  # what a killed run may leave

# The fault of one name; any other failure to write is the place's, and hits every name.
_OF_THE_NAME = frozenset(
    {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EINVAL, errno.EILSEQ}
)


class StorageFailure(DeidError):
    """The place itself fails (disk full, credentials expired): going on is of no use."""


class Unreachable(DeidError):
    """A file that is there could not be had this time: the server did not answer, or badly."""


class Storage(Protocol):
    """A place that holds named files."""

    def list(self, prefix: str = "") -> dict[str, str]:
        """Name → version of every file whose name starts with `prefix`, sorted by name."""
        ...

    def strangers(self) -> dict[str, str]:
        """Name → what it is, of everything that is no file and is never read: links, pipes."""
        ...

    def version(self, name: str) -> str | None:
        """The version of what has this name, None for nothing."""
        ...

    def fetch(self, name: str, limit: int | None = None) -> tuple[bytes, str]:
        """Bytes and their version; `DeidError` when unreadable or of more than `limit` bytes."""
        ...

    def read(self, name: str) -> bytes: ...

    def write(self, name: str, data: bytes) -> str:
        """Write the file and return its version; `StorageFailure` when nothing can be written."""
        ...

    def delete(self, name: str) -> None:
        """Remove the file; it need not exist."""
        ...


class LocalStorage:
    """A folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def list(self, prefix: str = "") -> dict[str, str]:
        found = ((name, status) for name, status in self._walk() if name.startswith(prefix))
        return {name: _version(s) for name, s in sorted(found) if stat.S_ISREG(s.st_mode)}

    def strangers(self) -> dict[str, str]:
        found = {name: s.st_mode for name, s in sorted(self._walk()) if not stat.S_ISREG(s.st_mode)}
        return {
            name: "a symbolic link" if stat.S_ISLNK(mode) else "not a regular file"
            for name, mode in found.items()
        }

    def _walk(self) -> Iterator[tuple[str, os.stat_result]]:
        """Everything below the root but real folders."""
        pending = [self.root] if self.root.is_dir() else []
        while pending:
            folder = pending.pop()
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(Path(entry.path))
                        continue
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # gone since
                    yield Path(entry.path).relative_to(self.root).as_posix(), status

    def version(self, name: str) -> str | None:
        try:
            return _version(self.path(name).lstat())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise DeidError(f"{self._shown(name)}: not readable ({error.strerror})") from None

    def fetch(self, name: str, limit: int | None = None) -> tuple[bytes, str]:
        path = self.path(name)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(handle, "rb") as file:
                before = os.fstat(handle)
                if not stat.S_ISREG(before.st_mode):
                    raise DeidError("not a regular file")
                check_size(before.st_size, limit)
                data = file.read()
                after = os.fstat(handle)
        except OSError as error:
            reason = "a symbolic link" if error.errno == errno.ELOOP else error.strerror
            raise DeidError(f"not readable ({reason}); mend it and run again") from None
        if _version(before) != _version(after) or len(data) != after.st_size:
            raise DeidError("changed while it was read; run again")
        return data, _version(after)

    def read(self, name: str) -> bytes:
        return self.fetch(name)[0]

    def write(self, name: str, data: bytes) -> str:
        path = self.path(name)
        temporary = path.with_name(f".deid-{secrets.token_hex(8)}.tmp")
        with self._writing(name):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.parent.resolve().is_relative_to(self.root.resolve()):
                raise DeidError(f"{name!r}: a link leads out of the destination; remove it")
            try:
                with temporary.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            return _version(path.lstat())

    def delete(self, name: str) -> None:
        with self._writing(name):
            self.path(name).unlink(missing_ok=True)

    def path(self, name: str) -> Path:
        """Where the file of this name is; `DeidError` for a name that leads elsewhere."""
        return self.root / checked(name)

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            if error.errno in _OF_THE_NAME:
                raise DeidError(f"cannot be written under its name ({reason}); rename it") from None
            raise StorageFailure(
                f"{self._shown(name)}: cannot be written ({reason}); free space or choose another "
                "destination, then run the same command to go on"
            ) from None

    def _shown(self, name: str) -> str:
        return str(self.root / name)


def open_storage(location: str, encryption: str | None = None) -> Storage:
    """`s3://bucket[/prefix]` or a folder's path.

    `encryption` is what S3 is asked to encrypt new objects with at rest: `AES256`, `aws:kms` or
    `aws:kms:KEY-ID`; a folder has no use for it.
    """
    if not location.startswith(S3_SCHEME):
        return LocalStorage(Path(location))
    from deid.storage.s3 import S3Storage

    bucket, _, prefix = location.removeprefix(S3_SCHEME).partition("/")
    if not bucket:
        raise DeidError(f"{location}: no bucket in it; write s3://BUCKET/PREFIX")
    return S3Storage(bucket, prefix, encryption)


def overlap(a: str, b: str) -> bool:
    """Whether one location is the other or lies inside it."""
    return inside(a, b) is not None or inside(b, a) is not None


def inside(inner: str, outer: str) -> str | None:
    """Where `inner` lies in `outer`, as a name ("" where they are one); None where it does not."""
    if inner.startswith(S3_SCHEME) != outer.startswith(S3_SCHEME):
        return None
    if inner.startswith(S3_SCHEME):
        one, two = f"{inner.rstrip('/')}/", f"{outer.rstrip('/')}/"
        return one.removeprefix(two).rstrip("/") if one.startswith(two) else None
    first, second = Path(inner).resolve(), Path(outer).resolve()
    if not first.is_relative_to(second):
        return None
    return "" if first == second else first.relative_to(second).as_posix()


def is_safe(name: str) -> bool:
    """Whether `name` stays inside its folder and has one spelling."""
    path = PurePosixPath(name)
    plain = not path.is_absolute() and ".." not in path.parts and "\0" not in name
    return bool(path.parts) and plain and str(path) == name


def checked(name: str) -> str:
    """`name`, if it is safe; else a `DeidError`."""
    if not is_safe(name):
        raise DeidError(f"{name!r}: not a plain name inside a folder; rename it")
    return name


def _version(status: os.stat_result) -> str:
    """A digest, because the times themselves would tell when a photo was taken."""
    marks = (status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_mode)
    return hashlib.blake2b(repr(marks).encode(), digest_size=16).hexdigest()


def check_size(size: int, limit: int | None) -> None:
    """`DeidError` for more bytes than the limit."""
    if limit is not None and size > limit:
        raise DeidError(f"{size:,} bytes are more than {limit:,}; scale it down first")
