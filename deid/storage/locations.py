"""Addresses of storages: a folder's path or `s3://bucket/prefix`, and how two of them lie."""

from pathlib import Path

from deid.errors import DeidError
from deid.storage.local import LocalStorage
from deid.storage.protocol import Storage

S3_SCHEME = "s3://"


def open_storage(location: str, encryption: str | None = None) -> Storage:
    """`s3://bucket[/prefix]` or a folder's path.

    `encryption` is what S3 is asked to encrypt new objects with at rest: `AES256`, `aws:kms` or
    `aws:kms:KEY-ID`; a folder ignores it.
    """
    if not location.startswith(S3_SCHEME):
        return LocalStorage(Path(location))
    from deid.storage.s3 import S3Storage

    bucket, prefix = _bucket_and_prefix(location)
    if not bucket:
        raise DeidError(f"{location}: no bucket in it; write s3://BUCKET/PREFIX")
    return S3Storage(bucket, prefix, encryption)


def _bucket_and_prefix(location: str) -> tuple[str, str]:
    """Slashes around a prefix are none of it, as `S3Storage` takes it."""
    bucket, _, prefix = location.removeprefix(S3_SCHEME).partition("/")
    return bucket, prefix.strip("/")


def inside(inner: str, outer: str) -> str | None:
    """Where `inner` lies in `outer`, as a name ("" where they are one); None where it does not."""
    if inner.startswith(S3_SCHEME) != outer.startswith(S3_SCHEME):
        return None
    if inner.startswith(S3_SCHEME):
        one, two = (f"{'/'.join(_bucket_and_prefix(x)).rstrip('/')}/" for x in (inner, outer))
        return one.removeprefix(two).rstrip("/") if one.startswith(two) else None
    first, second = Path(inner).resolve(), Path(outer).resolve()
    if not first.is_relative_to(second):
        return None
    return "" if first == second else first.relative_to(second).as_posix()
