"""A lease: an object that says that a run is at work in its bucket, and for how long at most."""

import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from deid.errors import DeidError
from deid.storage.protocol import PRIVATE, Occupied, Storage

LEASE = f"{PRIVATE}lease.json"
LEASE_SECONDS = 60.0  # how long a killed run keeps others out; renewed three times as often


class Dated(Storage, Protocol):
    """A storage that knows how old its files are."""

    def age(self, name: str) -> float:
        """Seconds since the file was written."""
        ...


@contextmanager
def hold(storage: Dated) -> Iterator[None]:
    """Keep other runs out; `DeidError` where one is at work, or nothing can be written."""
    owner, over = secrets.token_hex(8), threading.Event()
    take(storage, owner)

    def renew() -> None:
        while not over.wait(max(1.0, LEASE_SECONDS / 3)):
            with suppress(DeidError):  # the next write of the run says it
                storage.write(LEASE, _content(owner, LEASE_SECONDS))

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with suppress(DeidError):
            storage.write(LEASE, _content(owner, 0))


def take(storage: Dated, owner: str) -> None:
    """Begin a lease where none is held."""
    at_work = f"{storage}: another run is at work there; wait for its end"
    version = storage.version(LEASE)
    if version is not None and (left := _seconds_left(storage)) > 0:
        raise DeidError(f"{at_work}; if it was killed, run again in {left:.0f} s")
    try:
        storage.replace(LEASE, _content(owner, LEASE_SECONDS), version)
    except Occupied:
        raise DeidError(at_work) from None


def _seconds_left(storage: Dated) -> float:
    try:
        return float(json.loads(storage.read(LEASE))["seconds"]) - storage.age(LEASE)
    except (ValueError, KeyError, TypeError):
        return 0.0


def _content(owner: str, seconds: float) -> bytes:
    return json.dumps({"owner": owner, "seconds": seconds}).encode()
