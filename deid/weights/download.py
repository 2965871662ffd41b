"""One address to one file, over HTTP: resumable, and never trusting what the server says.

Bytes collect in `<file>.part`; beside it, `<file>.part.json` says which address they came from and
which version (ETag or Last-Modified) that was. A later call asks for the rest of exactly that
version (Range with If-Range, RFC 9110) and starts over where the server has another, cannot tell,
or ignores ranges.

Not by pooch: it has one address for a file, and begins anew where a connection broke.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from deid.errors import DeidError
from deid.storage.staging import write_atomically

Report = Callable[[int, int | None], None]
"""Told bytes so far and in all (None: unknown) as they come."""


@dataclass(frozen=True)
class Patience:
    """When an address is given up: seconds, bytes a second, tries."""

    connect: float = 15.0
    silence: float = 30.0  # without a single byte
    slowest: int = 4_096  # bytes a second, on average over `window`
    window: float = 60.0
    tries: int = 4
    pause: float = 1.0  # before the second try, doubled before each further one
    largest: int = 4 << 30  # bytes; no file of the catalog comes near


class MirrorFault(Exception):
    """This address does not serve; another may. The message is a clause, without the address."""


class _Passing(Exception):
    """A fault after which the same address deserves another try."""


class Part:
    """The bytes fetched so far, and where they are from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._notes = path.with_name(path.name + ".json")

    @property
    def url(self) -> str | None:
        """Where the bytes are from."""
        return self._read().get("url")

    def version_of(self, url: str) -> str | None:
        """The ETag or date that If-Range may name, if the bytes are from `url` and it gave one."""
        notes = self._read()
        return notes.get("version") if notes.get("url") == url and self.size else None

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def begin(self, url: str, version: str | None) -> None:
        """Forget everything; bytes of `url` follow."""
        self.discard()
        notes = {"url": url} | ({"version": version} if version else {})
        write_atomically(self._notes, json.dumps(notes).encode())

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)

    def _read(self) -> dict[str, str]:
        try:
            notes = json.loads(self._notes.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return notes if isinstance(notes, dict) else {}


def download(url: str, part: Part, patience: Patience, report: Report) -> None:
    """Fetch all of `url` into `part`, going on where it stopped.

    Raises MirrorFault when the address does not serve within `patience`; what came is kept.
    """
    timeout = httpx.Timeout(patience.silence, connect=patience.connect)
    # Identity: a compressed answer could be neither resumed nor counted.
    headers = {"Accept-Encoding": "identity", "User-Agent": "deid"}
    with httpx.Client(timeout=timeout, headers=headers, follow_redirects=True) as client:
        fruitless, furthest = 0, part.size
        while True:
            try:
                return _attempt(client, url, part, patience, report)
            except _Passing as fault:
                # A server that cuts every connection still serves, as long as it brings us on.
                fruitless = 0 if part.size > furthest else fruitless + 1
                furthest = max(furthest, part.size)
                if fruitless >= patience.tries:
                    raise MirrorFault(f"{fault}, {fruitless} times") from None
            time.sleep(patience.pause * 2**fruitless)


def _attempt(
    client: httpx.Client, url: str, part: Part, patience: Patience, report: Report
) -> None:
    version = part.version_of(url)
    headers = {"Range": f"bytes={part.size}-", "If-Range": version} if version else {}
    with _faults(), client.stream("GET", url, headers=headers) as answer:
        if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            if _total(answer) == part.size:
                return
            part.discard()
            raise _Passing("the partial file does not fit what the server has")
        _refuse(answer, url)
        resumed = answer.status_code == httpx.codes.PARTIAL_CONTENT
        if resumed and (_start(answer) != part.size or _version(answer) not in (None, version)):
            part.discard()
            raise _Passing("the server sent another range or version than asked for")
        if not resumed:
            part.begin(url, _version(answer))
        _receive(answer, part, _total(answer), patience, report)


def _refuse(answer: httpx.Response, url: str) -> None:
    """Raise for an answer that holds no file."""
    code = answer.status_code
    if code == httpx.codes.TOO_MANY_REQUESTS or code >= 500:
        raise _Passing(f"HTTP {code} {answer.reason_phrase}".strip())
    if code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
        raise MirrorFault(f"HTTP {code} {answer.reason_phrase}".strip())
    if url.startswith("https:") and answer.url.scheme != "https":
        raise MirrorFault("a redirection away from https")
    kind = answer.headers.get("Content-Type", "")
    if kind.startswith("text/html"):
        raise MirrorFault("a web page instead of the file")
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise MirrorFault("a compressed answer, which cannot be resumed")


def _receive(
    answer: httpx.Response, part: Part, total: int | None, patience: Patience, report: Report
) -> None:
    """Append the body to `part`."""
    done = part.size
    _room(part.path, done, total, patience)
    report(done, total)
    since, then = time.monotonic(), done
    with part.path.open("ab") as file:
        for chunk in answer.iter_raw():  # as they come: a chunk size would hold bytes back
            file.write(chunk)
            done += len(chunk)
            report(done, total)
            if done > patience.largest:
                raise MirrorFault(f"more than {patience.largest} bytes")
            if (passed := time.monotonic() - since) >= patience.window:
                if done - then < patience.slowest * passed:
                    raise MirrorFault(f"slower than {patience.slowest} bytes a second")
                since, then = time.monotonic(), done
    if total is not None and done != total:
        raise _Passing(f"{done} of {total} bytes")


def _room(path: Path, done: int, total: int | None, patience: Patience) -> None:
    if total is None:
        return
    if total > patience.largest:
        raise MirrorFault(f"{total} bytes announced, more than any weight file has")
    free = shutil.disk_usage(path.parent).free
    if total - done > free:
        raise DeidError(
            f"{path.parent}: {free >> 20} MiB free, {(total - done) >> 20} MiB needed; free space"
        )


@contextmanager
def _faults() -> Iterator[None]:
    """Turn what httpx raises into the two kinds of fault."""
    try:
        yield
    except httpx.ReadTimeout:
        raise MirrorFault("no byte for too long") from None
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
        raise MirrorFault(str(error)) from None
    except (httpx.ConnectTimeout, httpx.ConnectError) as error:
        raise MirrorFault(f"no connection ({error})") from None
    except httpx.TransportError as error:
        raise _Passing(f"connection lost ({error})") from None


def _version(answer: httpx.Response) -> str | None:
    """What If-Range may name: a strong ETag, or a Last-Modified that is a minute older than Date.

    A younger one could name two versions written within one second (RFC 9110, 8.8.2.2).
    """
    tag = answer.headers.get("ETag")
    if tag and not tag.startswith("W/"):
        return str(tag)
    modified, now = answer.headers.get("Last-Modified"), answer.headers.get("Date")
    try:
        age = parsedate_to_datetime(now) - parsedate_to_datetime(modified)
    except (TypeError, ValueError):
        return None
    return str(modified) if age.total_seconds() >= 60 else None


def _total(answer: httpx.Response) -> int | None:
    """Bytes of the whole file, of Content-Range or Content-Length."""
    text = answer.headers.get("Content-Range", "").rpartition("/")[2]
    if not text and answer.status_code == httpx.codes.OK:
        text = answer.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def _start(answer: httpx.Response) -> int | None:
    """First byte of a 206's range."""
    text = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(text) if text.isdecimal() else None
