"""The key that signs a batch: from the environment, never from params, and never shown."""

import hashlib
import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from deid.errors import DeidError

VARIABLE = "DEID_AUDIT_KEY"
FILE_VARIABLE = "DEID_AUDIT_KEY_FILE"
LEAST_BYTES = 32  # of a secret: shorter ones can be guessed
MOST_BYTES = 2**16  # of a key file: a longer one is read no further


class AuditKey(Protocol):
    """Signs, or checks what was signed."""

    @property
    def algorithm(self) -> str: ...

    @property
    def identity(self) -> str:
        """Tells keys apart and tells nothing of them."""
        ...

    def sign(self, message: bytes) -> str:
        """The signature, hexadecimal; `DeidError` where the key can only check."""
        ...

    def verify(self, message: bytes, signature: str) -> bool: ...


@dataclass(frozen=True)
class SecretKey:
    """HMAC-SHA256: who can check can also sign."""

    secret: bytes = field(repr=False)
    algorithm: str = "HMAC-SHA256"

    @property
    def identity(self) -> str:
        return self.sign(b"deid audit key")[:16]

    def sign(self, message: bytes) -> str:
        return hmac.new(self.secret, message, hashlib.sha256).hexdigest()

    def verify(self, message: bytes, signature: str) -> bool:
        return hmac.compare_digest(self.sign(message).encode(), signature.encode())


@dataclass(frozen=True)
class Ed25519Key:
    """Ed25519: the private half signs, the public half, which may be shown, checks."""

    public: bytes
    private: bytes | None = field(default=None, repr=False)
    algorithm: str = "Ed25519"

    @property
    def identity(self) -> str:
        return hashlib.sha256(self.public).hexdigest()[:16]

    def sign(self, message: bytes) -> str:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        if self.private is None:
            raise DeidError(
                "the audit key is a public one, which cannot sign; give the private one"
            )
        return Ed25519PrivateKey.from_private_bytes(self.private).sign(message).hex()

    def verify(self, message: bytes, signature: str) -> bool:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(
                bytes.fromhex(signature), message
            )
        except (InvalidSignature, ValueError):
            return False
        return True


def key_from_environment(environment: Mapping[str, str] = os.environ) -> AuditKey | None:
    """The key in `DEID_AUDIT_KEY`, or in the file that `DEID_AUDIT_KEY_FILE` names; else None.

    Text with `PRIVATE KEY` or `PUBLIC KEY` in it is an Ed25519 key in PEM; anything else is a
    secret of at least 32 bytes.
    """
    text, file = environment.get(VARIABLE, ""), environment.get(FILE_VARIABLE, "")
    if text and file:
        raise DeidError(f"{VARIABLE} and {FILE_VARIABLE} are both set; unset one")
    if file:
        try:
            with Path(file).open("rb") as opened:
                return parse_key(opened.read(MOST_BYTES), FILE_VARIABLE)
        except OSError as error:
            raise DeidError(
                f"{FILE_VARIABLE}: {file} is not readable ({error.strerror}); correct the path"
            ) from None
    return parse_key(os.fsencode(text), VARIABLE) if text else None


def signing_key(environment: Mapping[str, str] = os.environ) -> AuditKey | None:
    """The same, if it can sign; `DeidError` for one that cannot."""
    key = key_from_environment(environment)
    if key is not None:
        key.sign(b"")
    return key


def parse_key(data: bytes, where: str) -> AuditKey:
    """A key from its text; `DeidError` that says `where` it came from and nothing of it."""
    data = data.strip()
    if b"-----BEGIN" in data:
        return _pem(data, where)
    if len(data) < LEAST_BYTES:
        raise DeidError(
            f"{where}: a secret of {len(data)} bytes is too short; "
            f"give {LEAST_BYTES} or more, as from `openssl rand -hex 32`"
        )
    return SecretKey(data)


def _pem(data: bytes, where: str) -> AuditKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

    try:
        key: object
        if b"PRIVATE KEY" in data:
            key = serialization.load_pem_private_key(data, password=None)
        else:
            key = serialization.load_pem_public_key(data)
    except Exception:  # says too much of what it read
        key = None
    if isinstance(key, Ed25519PrivateKey):
        return Ed25519Key(key.public_key().public_bytes_raw(), key.private_bytes_raw())
    if isinstance(key, Ed25519PublicKey):
        return Ed25519Key(key.public_bytes_raw())
    raise DeidError(
        f"{where}: not an Ed25519 key without a passphrase; "
        "make one with `openssl genpkey -algorithm ed25519`"
    )
