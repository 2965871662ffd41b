"""Where pictures come from and go to: a local folder or an `s3://bucket/prefix`, one interface.

Names are relative, with `/`. A name's version changes whenever its bytes do, so that work can be
skipped without trusting clocks. Writes appear whole or not at all. S3 credentials and endpoint
(`AWS_ENDPOINT_URL_S3`) come from the environment alone.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

from deid.errors import DeidError
from deid.staging import file_sha256, write_atomically

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

S3_SCHEME = "s3://"


class Storage(Protocol):
    """A place that holds named files."""

    def list(self, prefix: str = "") -> dict[str, str]:
        """Name → version of every file whose name starts with `prefix`, sorted by name."""
        ...

    def read(self, name: str) -> bytes: ...

    def write(self, name: str, data: bytes) -> str:
        """Write the file and return its version."""
        ...

    def delete(self, name: str) -> None:
        """Remove the file; it need not exist."""
        ...


class LocalStorage:
    """A folder; a version is the SHA-256 of the bytes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def list(self, prefix: str = "") -> dict[str, str]:
        files = sorted(path for path in self.root.rglob("*") if path.is_file())
        names = {path.relative_to(self.root).as_posix(): path for path in files}
        return {name: file_sha256(p) for name, p in names.items() if name.startswith(prefix)}

    def read(self, name: str) -> bytes:
        return self._path(name).read_bytes()

    def write(self, name: str, data: bytes) -> str:
        write_atomically(self._path(name), data)
        return hashlib.sha256(data).hexdigest()

    def delete(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.root / _checked(name)


class S3Storage:
    """A bucket's prefix; a version is the ETag."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket = bucket
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._client = _s3_client()

    def list(self, prefix: str = "") -> dict[str, str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=self.prefix + prefix
        )
        with _s3_errors(f"{S3_SCHEME}{self.bucket}/{self.prefix}{prefix}"):
            entries = [entry for page in pages for entry in page.get("Contents", [])]
        names = {entry["Key"][len(self.prefix) :]: entry["ETag"].strip('"') for entry in entries}
        return {name: names[name] for name in sorted(names) if name and not name.endswith("/")}

    def read(self, name: str) -> bytes:
        with _s3_errors(self._shown(name)):
            answer = self._client.get_object(Bucket=self.bucket, Key=self._key(name))
            return answer["Body"].read()

    def write(self, name: str, data: bytes) -> str:
        with _s3_errors(self._shown(name)):
            key = self._key(name)
            answer = self._client.put_object(Bucket=self.bucket, Key=key, Body=data)
            return answer["ETag"].strip('"')

    def delete(self, name: str) -> None:
        with _s3_errors(self._shown(name)):
            self._client.delete_object(Bucket=self.bucket, Key=self._key(name))

    def _key(self, name: str) -> str:
        return self.prefix + _checked(name)

    def _shown(self, name: str) -> str:
        return f"{S3_SCHEME}{self.bucket}/{self._key(name)}"


def open_storage(location: str) -> Storage:
    """`s3://bucket[/prefix]` or a folder's path."""
    if not location.startswith(S3_SCHEME):
        return LocalStorage(Path(location))
    bucket, _, prefix = location.removeprefix(S3_SCHEME).partition("/")
    if not bucket:
        raise DeidError(f"{location}: no bucket in it; write s3://BUCKET/PREFIX")
    return S3Storage(bucket, prefix)


def overlap(a: str, b: str) -> bool:
    """Whether one location is the other or lies inside it."""
    if a.startswith(S3_SCHEME) != b.startswith(S3_SCHEME):
        return False
    if a.startswith(S3_SCHEME):
        one, two = f"{a.rstrip('/')}/", f"{b.rstrip('/')}/"
        return one.startswith(two) or two.startswith(one)
    first, second = Path(a).resolve(), Path(b).resolve()
    return first.is_relative_to(second) or second.is_relative_to(first)


def is_safe(name: str) -> bool:
    """Whether `name` stays inside its folder and has one spelling."""
    path = PurePosixPath(name)
    plain = not path.is_absolute() and ".." not in path.parts and "\0" not in name
    return bool(path.parts) and plain and str(path) == name


def _checked(name: str) -> str:
    if not is_safe(name):
        raise DeidError(f"{name!r}: not a plain name inside a folder; rename it")
    return name


def _s3_client() -> "S3Client":
    import boto3
    from botocore.config import Config

    settings = Config(
        retries={"max_attempts": 5, "mode": "standard"},
        # Many S3-compatible servers do not know the newer checksum trailers.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    with _s3_errors("S3"):
        # A session of its own: boto3's default one keeps old credentials and is no thread's friend.
        return boto3.session.Session().client("s3", config=settings)


@contextmanager
def _s3_errors(place: str) -> Iterator[None]:
    """Turn what boto3 raises into a `DeidError` that names the place."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise DeidError(
            f"{place}: {error}; check the address, AWS_ENDPOINT_URL_S3 and the credentials"
        ) from error
