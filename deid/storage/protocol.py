"""What every storage offers: named files that appear whole or not at all.

Names are relative, with `/`. A name's version changes whenever its bytes do, and is cheap to ask
for: of a file it is a digest of its size, inode and times of change (the second of which no
program can set back), of an S3 object its ETag. What `write` returned of is on the disk.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from deid.errors import DeidError

PRIVATE = ".deid/"  # beside the outputs: what only later batches read


class StorageFailure(DeidError):
    """The storage itself fails (disk full, credentials expired): to continue is of no use."""


class Unread(DeidError):
    """A file could not be read this time: it is gone since, or there is no permission. What it is
    now nobody knows."""


class Unreachable(Unread):
    """The same for want of an answer, or with a bad one: others will not be read either."""


class Occupied(DeidError):
    """Another file than the one that was to be replaced has the name."""


class Storage(Protocol):
    """A folder or bucket that holds named files."""

    def list(self, prefix: str = "") -> dict[str, str]:
        """Name → version of every file whose name starts with `prefix`, sorted by name."""
        ...

    def non_files(self) -> dict[str, str]:
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

    def replace(self, name: str, data: bytes, version: str | None) -> str:
        """`write`, but only over the file of that version, or over nothing for None; else
        `Occupied`. The same bytes may have come there meanwhile."""
        ...

    def delete(self, name: str) -> None:
        """Remove the file; it need not exist."""
        ...

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other runs out; `DeidError` where one is at work, or nothing can be written."""
        ...


def is_safe(name: str) -> bool:
    """Whether `name` stays inside its folder and has one spelling."""
    return "\0" not in name and not {"", ".", ".."}.intersection(name.split("/"))


def checked(name: str) -> str:
    """`name`, if it is safe; else a `DeidError`."""
    if not is_safe(name):
        raise DeidError(f"{name!r}: not a plain name inside a folder; rename it")
    return name


def check_size(size: int, limit: int | None) -> None:
    """`DeidError` for more bytes than the limit."""
    if limit is not None and size > limit:
        raise DeidError(f"{size:,} bytes are more than {limit:,}; scale it down first")
