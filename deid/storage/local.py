"""A local folder as a storage. Links are never followed."""

import errno
import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from deid.errors import DeidError
from deid.storage.protocol import (
    PRIVATE,
    Occupied,
    StorageFailure,
    Unreachable,
    Unread,
    check_size,
    checked,
)
from deid.storage.staging import write_atomically

LOCK = f"{PRIVATE}lock"
TEMPORARY = re.compile(r"\.deid-[0-9a-f]{16}\.tmp")  # what a killed run may leave

LEFT_BEHIND = 3600.0  # seconds, after which nobody writes to a half-written file any more

# The fault of one name; any other failure to write is the storage's, and hits every name.
_OF_THE_NAME = frozenset(
    {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EINVAL, errno.EILSEQ}
)

# The fault of what holds the files, to read or to write: a disk or a mount that went away.
_OF_THE_PLACE = frozenset(
    {errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.ETIMEDOUT}
)


class LocalStorage:
    """A folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def list(self, prefix: str = "") -> dict[str, str]:
        found = {}
        for name, entry in self._walk(prefix.rpartition("/")[0]):
            if name.startswith(prefix) and entry.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError):  # gone since
                    found[name] = _version(entry.stat(follow_symlinks=False))
        return dict(sorted(found.items()))

    def non_files(self) -> dict[str, str]:
        found = {
            name: "a symbolic link" if entry.is_symlink() else "not a regular file"
            for name, entry in self._walk()
            if not entry.is_file(follow_symlinks=False)
        }
        return dict(sorted(found.items()))

    def _walk(self, folder: str = "") -> Iterator[tuple[str, "os.DirEntry[str]"]]:
        """Name and entry of everything below a folder, by default the root, but real folders.

        Of a hundred thousand files each microsecond counts, and none is asked for its status here.
        """
        behind = bool(folder) and self._is_behind_link(f"{folder}/")
        pending = [folder] if not behind and (self.root / folder).is_dir() else []
        while pending:
            current = pending.pop()
            above = f"{current}/" if current else ""
            with os.scandir(self.root / current) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(above + entry.name)
                    else:
                        yield above + entry.name, entry

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
            raise self._unread(error) from None
        if _version(before) != _version(after) or len(data) != after.st_size:
            raise DeidError("changed while it was read; run again")
        return data, _version(after)

    def _unread(self, error: OSError) -> DeidError:
        """What to raise for a file that was not read."""
        if error.errno == errno.ELOOP:
            return DeidError("not readable (a symbolic link); fix it and run again")
        lost = error.errno in _OF_THE_PLACE or not self.root.is_dir()
        kind = Unreachable if lost else Unread
        return kind(f"not readable ({error.strerror}); fix it and run again")

    def read(self, name: str) -> bytes:
        return self.fetch(name)[0]

    def write(self, name: str, data: bytes) -> str:
        return self._write(name, data, lambda: None)

    def replace(self, name: str, data: bytes, version: str | None) -> str:
        def look() -> None:
            present = self.version(name)
            if present != version and (present is None or self.read(name) != data):
                raise Occupied("another file came to the output's name meanwhile; run again")

        return self._write(name, data, look)

    def _write(self, name: str, data: bytes, last_look: Callable[[], None]) -> str:
        path = self.path(name)
        with self._writing(name):
            write_atomically(path, data, last_look)
            return _version(path.lstat())

    def delete(self, name: str) -> None:
        with self._writing(name):
            self.path(name).unlink(missing_ok=True)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        lock = FileLock(self.path(LOCK), timeout=0)
        try:
            self.path(LOCK).parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:  # which is an `OSError`, too
            raise DeidError(
                f"{self.root}: another run is at work there; wait for its end"
            ) from None
        except OSError as error:
            raise StorageFailure(
                f"{self.root}: cannot be written ({error.strerror or error}); choose another "
                "destination"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def clean(self, folder: str | None = None) -> None:
        """Remove what killed runs left half-written, everywhere; or in one folder, which other runs
        may write to now, what is older than any of theirs."""
        if folder is None:
            names = [name for name, entry in self._walk() if entry.name.startswith(".deid-")]
        else:
            found = self.root.joinpath(folder).glob(".deid-*")
            names = [str(Path(folder, path.name)) for path in found if _age(path) > LEFT_BEHIND]
        for name in names:
            if TEMPORARY.fullmatch(Path(name).name):
                self.delete(name)

    def path(self, name: str) -> Path:
        """Where the file of this name is; `DeidError` for a name that leads elsewhere, be it by a
        folder that is a link: what lies behind it is not of this storage."""
        if self._is_behind_link(checked(name)):
            raise DeidError(f"{name!r}: a link leads out of the folder; remove the link")
        return self.root / name

    def _is_behind_link(self, name: str) -> bool:
        folder = self.root
        for part in name.split("/")[:-1]:
            folder = folder / part
            if os.path.islink(folder):  # no error where that cannot be told: the next step has it
                return True
        return False

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
                "destination, then run the same command to resume"
            ) from None

    def _shown(self, name: str) -> str:
        return str(self.root / name)


def _version(status: os.stat_result) -> str:
    """A digest, because the times themselves would tell when a photo was taken."""
    marks = (status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_mode)
    return hashlib.blake2b(repr(marks).encode(), digest_size=16).hexdigest()


def _age(path: Path) -> float:
    """Seconds since a file was written to; 0 for one that is gone."""
    try:
        return time.time() - path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0
