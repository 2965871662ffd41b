"""A Ray cluster: how it is reached, and its errors in one line. Ray itself is an extra."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from deid.errors import DeidError, missing_extra

ANSWER = 10.0  # seconds that a cluster has to take a connection


@contextmanager
def connected(address: str | None, cpus: int) -> Iterator[Any]:
    """The module `ray`, connected to the cluster at `address` (HOST:PORT or auto), or to one that
    is started on this machine with so many `cpus`. A connection that is there already stays.

    `DeidError` where Ray is not installed or the cluster does not answer.
    """
    ray = _ray()
    if ray.is_initialized():
        yield ray
        return
    _connect(ray, address, cpus)
    try:
        yield ray
    finally:
        ray.shutdown()


def said(error: Exception) -> str:
    """The first line of what went wrong, where Ray reports another's error that one."""
    reason = getattr(error, "cause", None) or error
    return (str(reason) or type(reason).__name__).splitlines()[0]


def _connect(ray: Any, address: str | None, cpus: int) -> None:
    local = {"num_cpus": cpus, "include_dashboard": False}
    try:
        _knock(address)
        ray.init(address=address or "local", log_to_driver=False, **({} if address else local))
    except (OSError, RuntimeError, ValueError) as error:
        where = f"--address {address}" if address else "--engine ray"
        raise DeidError(
            f"{where}: {said(error)}; start a cluster with `ray start --head`, or correct the "
            "address"
        ) from None


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing calls home
    try:
        import ray
    except ModuleNotFoundError as error:
        raise DeidError(missing_extra(error, "ray")) from None
    return ray


def _knock(address: str | None) -> None:
    """`OSError` where nothing listens at HOST:PORT: Ray itself would try for many minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), ANSWER).close()
