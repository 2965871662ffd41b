"""A lease: an object that says that a run is at work in its bucket, and for how long at most.

Whoever holds it renews it, and finds out there when another run took it over: after a pause longer
than the lease, or on a server that overlooks conditions, where two runs may begin at once. It
writes no record any more then.
"""

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from deid.errors import DeidError
from deid.storage.protocol import PRIVATE, Occupied, Storage, StorageFailure

LEASE = f"{PRIVATE}lease.json"
LEASE_SECONDS = 60.0  # how long a killed run keeps others out; renewed three times as often


class Dated(Storage, Protocol):
    """A storage that knows how old its files are."""

    def age(self, name: str) -> float:
        """Seconds since the file was written."""
        ...


class Lease:
    """A lease that was begun."""

    def __init__(self, storage: Dated, owner: str, version: str) -> None:
        self._storage, self._owner, self._version = storage, owner, version
        self._until = time.monotonic() + LEASE_SECONDS
        self._taken = False

    def check(self) -> None:
        """`StorageFailure` where it is no longer ours."""
        if self._taken or time.monotonic() > self._until:
            raise StorageFailure(
                f"{self._storage}: another run may be at work there by now (this one was stopped "
                "or cut off for too long); run again to resume"
            )

    def renew(self, seconds: float = LEASE_SECONDS) -> None:
        """Prolong it, if it is still ours; a storage that does not answer is asked again later."""
        began = time.monotonic()
        with suppress(DeidError):
            present = self._storage.version(LEASE)
            if present != self._version and _read(self._storage).get("owner") != self._owner:
                self._taken = True
                return
            try:
                self._version = self._storage.replace(
                    LEASE, _content(self._owner, seconds), present
                )
                self._until = began + seconds
            except Occupied:
                self._taken = True


@contextmanager
def hold(storage: Dated) -> Iterator[Lease]:
    """Keep other runs out; `DeidError` where one is at work, or nothing can be written."""
    lease, over = take(storage, secrets.token_hex(8)), threading.Event()

    def renew() -> None:
        while not over.wait(max(1.0, LEASE_SECONDS / 3)):
            lease.renew()

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        over.set()
        thread.join()
        lease.renew(seconds=0)


def take(storage: Dated, owner: str) -> Lease:
    """Begin a lease where none is held."""
    at_work = f"{storage}: another run is at work there; wait for its end"
    version = storage.version(LEASE)
    if version is not None and (left := _seconds_left(storage)) > 0:
        raise DeidError(f"{at_work}; if it was killed, run again in {left:.0f} s")
    try:
        began = storage.replace(LEASE, _content(owner, LEASE_SECONDS), version)
    except Occupied:
        raise DeidError(at_work) from None
    if _read(storage).get("owner") != owner:  # the server overlooks conditions
        raise DeidError(at_work)
    return Lease(storage, owner, began)


def _seconds_left(storage: Dated) -> float:
    try:
        return float(_read(storage)["seconds"]) - storage.age(LEASE)
    except (ValueError, KeyError, TypeError):
        return 0.0


def _read(storage: Storage) -> dict[str, Any]:
    try:
        content = json.loads(storage.read(LEASE))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _content(owner: str, seconds: float) -> bytes:
    return json.dumps({"owner": owner, "seconds": seconds}).encode()
