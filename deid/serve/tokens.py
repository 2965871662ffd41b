"""Who may ask: bearer tokens, of which the server keeps nothing but their hashes.

TOKEN=$(openssl rand -hex 32)
printf %s "$TOKEN" | sha256sum | sed 's/-$/alice/' >> tokens
"""

import hashlib
import hmac
import re
from pathlib import Path

from deid.errors import DeidError

_HASH = re.compile(r"[0-9a-f]{64}")


class Tokens:
    """The hashes in a file and their owners' names; a changed file counts at once."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read: tuple[int, dict[str, str]] | None = None
        self._names()

    def owner(self, token: str) -> str | None:
        """Whose token this is; None: nobody's. Takes as long for either."""
        digest = hashlib.sha256(token.encode()).hexdigest()
        found = None
        for known, name in self._names().items():
            if hmac.compare_digest(known, digest):
                found = name
        return found

    def _names(self) -> dict[str, str]:
        try:
            stamp = self._file.stat().st_mtime_ns
            if self._read is None or self._read[0] != stamp:
                self._read = stamp, self._parsed(self._file.read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise DeidError(f"{self._file}: not readable ({error}); correct the path") from None
        return self._read[1]

    def _parsed(self, text: str) -> dict[str, str]:
        names = {}
        for number, line in enumerate(text.splitlines(), 1):
            digest, _, name = line.strip().partition(" ")
            if not digest or digest.startswith("#"):
                continue
            if not _HASH.fullmatch(digest):
                # Not quoted: it may be a token itself.
                raise DeidError(
                    f"{self._file}:{number}: not a SHA-256 hash of 64 digits in lower case; make "
                    "it with sha256sum"
                )
            names[digest] = name.strip() or f"line {number}"
        if not names:
            raise DeidError(f"{self._file}: no token in it; add a line with a SHA-256 hash")
        return names
