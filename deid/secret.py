"""The secret key of pseudonyms: in a file of its own, and nowhere else."""

import hashlib
import hmac
import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from deid.errors import DeidError, NoFile

if TYPE_CHECKING:  # so that a run's parent does not wait for it
    import numpy as np
    from numpy.typing import NDArray

BYTES = 32
VARIABLE = "DEID_KEY_FILE"
"""Names the key's file to a registered model, which has no other place for it."""


class NoKey(NoFile):
    """A key's file gives no key."""


@dataclass(frozen=True)
class SecretKey:
    """256 random bits. What is derived from them tells nothing of them, nor of each other."""

    secret: bytes = field(repr=False)

    @property
    def identity(self) -> str:
        """Tells keys apart and tells nothing of them; 16 hexadecimal digits."""
        return self._derived("identity").hex()[:16]

    def numbered(self, number: int) -> "SecretKey":
        """Another key, of this one; 0: this one."""
        return SecretKey(self._derived(f"number {number}")) if number else self

    def uniform(self, name: str, count: int) -> "NDArray[np.float64]":
        """`[count]` random numbers in (0, 1): the same on every machine."""
        import numpy as np

        stream = hashlib.shake_256(self._derived(name)).digest(8 * count)
        return np.asarray(((np.frombuffer(stream, "<u8") >> 11) + 0.5) / 2.0**53, np.float64)

    def seed(self) -> int:
        """A seed of 256 bits."""
        return int.from_bytes(self._derived("seed"), "big")

    def _derived(self, name: str) -> bytes:
        return hmac.new(self.secret, f"deid pseudonyms/{name}".encode(), hashlib.sha256).digest()


def new_key(file: Path) -> SecretKey:
    """Write a new key to `file`, which only its owner may read; `DeidError` where there is one."""
    secret = secrets.token_bytes(BYTES)
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as opened:
            opened.write(f"{secret.hex()}\n")
            opened.flush()
            os.fsync(handle)
    except FileExistsError:
        raise DeidError(
            f"{file}: is there already, and what a key made needs that key; choose another name"
        ) from None
    except OSError as error:
        raise DeidError(f"{file}: cannot be written ({error.strerror}); correct the path") from None
    return SecretKey(secret)


def read_key(file: str | Path) -> SecretKey:
    """The key in `file`; `NoKey`, which tells nothing of it, for none, or one that all may read."""
    try:
        with Path(file).open("rb") as opened:
            mode, text = os.fstat(opened.fileno()).st_mode, opened.read(4 * BYTES).strip()
    except OSError as error:
        raise NoKey(
            f"key {file}: not readable ({error.strerror}); correct the path, or make one with "
            "`deid key new`"
        ) from None
    if os.name == "posix" and mode & (stat.S_IROTH | stat.S_IWOTH):
        raise NoKey(f"key {file}: every user of this machine may read or change it; chmod 600 it")
    try:
        secret = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        secret = b""
    if len(secret) != BYTES:
        raise NoKey(f"key {file}: not {2 * BYTES} hexadecimal digits; make one with `deid key new`")
    return SecretKey(secret)
