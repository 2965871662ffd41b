"""Which files a test's code opens for writing, by Python's own audit events."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_watching: list[list[str]] = []
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event == "open" and _watching and args[2] & _WRITES and args[0] != os.devnull:
        _watching[-1].append(str(args[0]))


sys.addaudithook(_hook)  # cannot be taken off again: it does nothing outside of a block


@contextmanager
def files_written() -> Iterator[list[str]]:
    """Paths opened for writing by this process within the block."""
    _watching.append([])
    try:
        yield _watching[-1]
    finally:
        _watching.pop()
