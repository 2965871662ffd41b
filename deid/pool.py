"""Processes that share out independent pieces of work, one thread of computation each."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.context import SpawnContext
from typing import Any

SPAWN: SpawnContext = multiprocessing.get_context("spawn")
"""A forked copy of a process with threads may hang."""


def processors() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def process_pool(
    workers: int, start: Callable[..., None] | None = None, *setup: Any
) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes each call `start(*setup)` first, where there is one.

    They end when this process does, also when it is killed. An error in the block, or Ctrl-C,
    cancels what has not begun. `BrokenProcessPool` where one of them is killed.
    """
    with ProcessPoolExecutor(workers, SPAWN, _begin, (start, *setup)) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin(start: Callable[..., None] | None, *setup: Any) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # of Ctrl-C the parent speaks, and only it
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    if start is not None:
        start(*setup)


def end_with_parent() -> None:
    """A killed parent cannot stop its pool, whose processes would wait for work for ever."""
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)
