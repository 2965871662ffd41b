"""An S3 bucket's prefix as a storage. Credentials and endpoint come from the environment alone.

boto3 retries what fails before an answer begins; what it leaves to its callers is done here: a body
that breaks off is read again, and what was read must have the length and, where the ETag tells it,
the MD5 that the server announced. An object is written by a single request, so that it is there
whole or not at all, and the server compares the MD5 that the request has.
"""

import base64
import hashlib
import mimetypes
import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from email.utils import parsedate_to_datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from deid.errors import DeidError
from deid.storage import lease
from deid.storage.protocol import Occupied, StorageFailure, Unreachable, check_size, checked

if TYPE_CHECKING:
    from botocore.loaders import Loader
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

ATTEMPTS = 5
PAUSE = 0.5  # seconds before the second attempt; doubled for each further one
CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 60.0  # seconds without a byte

_MD5 = re.compile(r"[0-9a-f]{32}")
# The fault of the credentials or of the bucket: no other name would fare better.
_OF_THE_STORAGE = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidToken",
        "NoSuchBucket",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)
_GONE = frozenset({"404", "NoSuchKey", "NotFound"})
_NO_CONDITIONS = frozenset({"NotImplemented", "InvalidArgument"})  # of servers that know none
_TOO_LATE = _GONE | {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
# Which no system's table of types is sure to know.
_TYPES = {
    "avif": "image/avif",
    "heic": "image/heic",
    "heif": "image/heif",
    "jsonl": "application/x-ndjson",
    "webp": "image/webp",
}


class S3Storage:
    """A bucket's prefix; a version is the ETag."""

    def __init__(self, bucket: str, prefix: str, encryption: str | None = None) -> None:
        self.bucket = bucket
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.encryption = encryption
        self._extra = _encryption(encryption)
        self._made: S3Client | None = None
        self._lease: lease.Lease | None = None  # while this process has the place to itself

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def __reduce__(self) -> tuple[Any, ...]:
        return S3Storage, (self.bucket, self.prefix, self.encryption)  # clients cannot be pickled

    @property
    def _client(self) -> "S3Client":
        if self._made is None:
            self._made = _s3_client()
        return self._made

    def list(self, prefix: str = "") -> dict[str, str]:
        with self._errors(prefix, writes=True):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + prefix
            )
            entries = [entry for page in pages for entry in page.get("Contents", [])]
        names = {e["Key"][len(self.prefix) :]: e["ETag"].strip('"') for e in entries}
        return {name: names[name] for name in sorted(names) if name and not name.endswith("/")}

    def non_files(self) -> dict[str, str]:
        return {}

    def version(self, name: str) -> str | None:
        with self._errors(name):
            try:
                answer = self._client.head_object(Bucket=self.bucket, Key=self._key(name))
            except self._client.exceptions.ClientError as error:
                if error.response.get("Error", {}).get("Code") in _GONE:
                    return None
                raise
            return answer["ETag"].strip('"')

    def fetch(self, name: str, limit: int | None = None) -> tuple[bytes, str]:
        before: bytes | None = None
        for attempt in range(ATTEMPTS):
            time.sleep(PAUSE * 2 ** (attempt - 1) if attempt else 0)
            with self._errors(name):
                answer = self._client.get_object(Bucket=self.bucket, Key=self._key(name))
                data = _body(answer, limit)
            # Some servers' ETags only look like an MD5: what comes twice alike is right.
            if data is not None and (_is_whole(answer, data) or data == before):
                return data, answer["ETag"].strip('"')
            before = data
        raise Unreachable(
            f"{self._shown(name)}: breaks off or arrives damaged; run again to resume"
        )

    def read(self, name: str) -> bytes:
        return self.fetch(name)[0]

    def write(self, name: str, data: bytes) -> str:
        if self._lease is not None:
            self._lease.check()
        with self._errors(name, writes=True):
            return self._put(name, data)

    def replace(self, name: str, data: bytes, version: str | None) -> str:
        """See `Storage`. A server that knows no conditions (or overlooks them, as it cannot be told
        from one that keeps them) overwrites what came after the caller's last look."""
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": f'"{version}"'}
        with self._errors(name, writes=True):
            try:
                return self._put(name, data, **condition)
            except self._client.exceptions.ClientError as error:
                code = error.response.get("Error", {}).get("Code", "")
                if code in _NO_CONDITIONS and self.version(name) == version:
                    return self._put(name, data)
                if code not in _TOO_LATE | _NO_CONDITIONS:
                    raise
        present = self.version(name)
        if present is None or self.read(name) != data:  # else a repeated request, after all
            raise Occupied("another file came to the output's name meanwhile; run again")
        return present

    def _put(self, name: str, data: bytes, **condition: Any) -> str:
        digest = hashlib.md5(data, usedforsecurity=False).digest()
        where: dict[str, Any] = {"Bucket": self.bucket, "Key": self._key(name)}
        put = where | condition | self._extra | {"Body": data, "ContentType": content_type(name)}
        put["ContentMD5"] = base64.b64encode(digest).decode()
        answer = self._client.put_object(**put)
        version = answer["ETag"].strip('"')
        if version != digest.hex():  # the ETag of an encrypted object, or of a server of its own
            stored = self._client.head_object(**where)
            if stored["ContentLength"] != len(data):
                raise StorageFailure(f"{self._shown(name)}: was not stored whole; run again")
        return version

    def delete(self, name: str) -> None:
        with self._errors(name, writes=True):
            self._client.delete_object(Bucket=self.bucket, Key=self._key(name))

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold a lease, which also shows that objects can be written; none may be deleted for it.

        On a server that overlooks conditions (rclone's), two runs that begin within one round trip
        of each other may both be let in. The one that finds another's lease when it renews its own
        ends there; until then they do the same work, to the same bytes.
        """
        with lease.hold(self) as self._lease:
            try:
                yield
            finally:
                self._lease = None

    def age(self, name: str) -> float:
        """Seconds since an object was written, by the server's clock alone."""
        with self._errors(name):
            answer = self._client.head_object(Bucket=self.bucket, Key=self._key(name))
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return (now - answer["LastModified"]).total_seconds()

    def _key(self, name: str) -> str:
        try:
            checked(name).encode()
        except UnicodeEncodeError:
            raise DeidError(f"{name!r}: not Unicode, as S3 wants its names; rename it") from None
        return self.prefix + name

    def _shown(self, name: str) -> str:
        return f"s3://{self.bucket}/{self.prefix}{name}"

    @contextmanager
    def _errors(self, name: str, writes: bool = False) -> Iterator[None]:
        """Turn what boto3 raises into an error that names the place.

        A read that failed is that object's affair, a write that failed everyone's.
        """
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            everyones = writes or error.response.get("Error", {}).get("Code", "") in _OF_THE_STORAGE
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            unreachable = status == 403 or status >= 500
            kind = StorageFailure if everyones else Unreachable if unreachable else DeidError
            raise self._failure(kind, name, error) from error
        except (BotoCoreError, Boto3Error) as error:
            ours = "Credential" in type(error).__name__ or "Token" in type(error).__name__
            kind = StorageFailure if writes or ours else Unreachable
            raise self._failure(kind, name, error) from error

    def _failure(self, kind: type[DeidError], name: str, error: Exception) -> DeidError:
        return kind(
            f"{self._shown(name)}: {error}; check the address, AWS_ENDPOINT_URL_S3 and the "
            "credentials, then run again to resume"
        )


def content_type(name: str) -> str:
    """The media type of a file, told by its suffix."""
    kind = mimetypes.guess_type(name)[0]
    return kind or _TYPES.get(name.rpartition(".")[2].lower(), "application/octet-stream")


def _body(answer: "GetObjectOutputTypeDef", limit: int | None) -> bytes | None:
    """The bytes of an answer, or None where it broke off."""
    from botocore.exceptions import BotoCoreError

    with closing(answer["Body"]) as body:  # `with body` alone gives the stream below it
        check_size(answer["ContentLength"], limit)
        try:
            return body.read()
        except (BotoCoreError, OSError):
            return None


def _is_whole(answer: "GetObjectOutputTypeDef", data: bytes) -> bool:
    """Whether `data` is known to be what was stored."""
    etag = answer["ETag"].strip('"')
    if len(data) != answer["ContentLength"]:
        return False
    if not _MD5.fullmatch(etag) or answer.get("ServerSideEncryption") == "aws:kms":
        return True
    return hashlib.md5(data, usedforsecurity=False).hexdigest() == etag


def _encryption(wanted: str | None) -> dict[str, str]:
    if wanted is None:
        return {}
    kind, _, key = wanted.removeprefix("aws:").partition(":")
    if wanted == "AES256":
        return {"ServerSideEncryption": "AES256"}
    if wanted.startswith("aws:kms") and kind == "kms":
        return {"ServerSideEncryption": "aws:kms"} | ({"SSEKMSKeyId": key} if key else {})
    raise DeidError(f"encryption {wanted!r}: unknown; write AES256, aws:kms or aws:kms:KEY-ID")


def _s3_client() -> "S3Client":
    import boto3
    import botocore.session
    from botocore.config import Config

    settings = Config(
        retries={"max_attempts": ATTEMPTS, "mode": "standard"},
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=READ_TIMEOUT,
        # Many S3-compatible servers do not know the newer checksum trailers.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    # A session of its own: boto3's default one keeps old credentials and is no thread's friend.
    own = botocore.session.Session()
    own.register_component("data_loader", _descriptions(own.get_config_variable("data_path")))
    return boto3.session.Session(botocore_session=own).client("s3", config=settings)


@cache
def _descriptions(folders: str | None) -> "Loader":
    """botocore's descriptions of services: to read them is most of what a client costs."""
    from botocore.loaders import create_loader

    return create_loader(folders)
