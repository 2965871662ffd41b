"""One process at a time moves the aliases of a model, on whichever store.

Beside a SQLite file lies a lock that ends with its process. A server or a database is asked for a
registered model of a name that only one can make; it has a time after which it is void, so that
who was killed shuts nobody out.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from deid.errors import DeidError
from deid.tracking import SQLITE, tracking_uri

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

LEASE = 60.0  # seconds; a move takes a few
PATIENCE = 90.0  # seconds to wait for another
PAUSE = 0.2
UNTIL = "until"


@contextmanager
def alone(client: "MlflowClient", model: str) -> Iterator[None]:
    """Hold the lock of `model`; `DeidError` where another process keeps it."""
    uri = tracking_uri()
    guard = _file(Path(uri.removeprefix(SQLITE)), model) if uri.startswith(SQLITE) else None
    with guard or lease(client, model):
        yield


@contextmanager
def _file(store: Path, model: str) -> Iterator[None]:
    lock = FileLock(store.with_name(f"{store.name}.moves.lock"))
    try:
        held = lock.acquire(PATIENCE)
    except Timeout:
        raise _busy(model) from None
    with held:
        yield


@contextmanager
def lease(client: "MlflowClient", model: str) -> Iterator[None]:
    """A registered model called MODEL.lock, for as long as the block runs."""
    from mlflow.exceptions import MlflowException

    name, end = f"{model}.lock", time.monotonic() + PATIENCE
    while True:
        try:
            until = repr(time.time() + LEASE)
            client.create_registered_model(name, tags={UNTIL: until})
            break
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        if not _removed(client, name, lambda held: float(held) < time.time()):
            _wait(end, model)
    try:
        yield
    finally:
        _removed(client, name, lambda held: held == until)  # who took over a void one keeps it


def _removed(client: "MlflowClient", name: str, due: Callable[[str], bool]) -> bool:
    """Remove the lock if the time that it holds until is `due`; whether nobody has it now."""
    from mlflow.exceptions import MlflowException

    try:
        held = client.get_registered_model(name)
        if not due(held.tags.get(UNTIL, "0")):
            return False
        client.delete_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    return True


def _wait(end: float, model: str) -> None:
    if time.monotonic() > end:
        raise _busy(model)
    time.sleep(PAUSE)


def _busy(model: str) -> DeidError:
    return DeidError(
        f"{model}: another process has been moving its aliases for {PATIENCE:.0f} s; see "
        "`deid registry status`, then try again"
    )
