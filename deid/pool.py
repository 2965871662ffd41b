"""Processes that share out independent pieces of work, one thread of computation each."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any

_LOADED = ["torch", "cv2", "pydantic", "safetensors.torch"]
"""What every process needs; none of it starts a thread where `one_thread` holds."""

_ENVIRONMENT = threading.Lock()  # of all threads that start a process


@cache
def processes() -> ForkServerContext | SpawnContext:
    """How they are started: a forked copy of a process with threads, as this one, may hang.

    On Linux each is a copy of one that has the libraries loaded, and nothing else: it is there at
    once, where a new Python takes two seconds. That one listens at a socket in the folder for
    temporary files; where none can be, since its path is too long, say, each is a new Python.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    from multiprocessing.forkserver import ensure_running

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LOADED)
    try:
        with one_thread():
            ensure_running()
    except OSError:
        return multiprocessing.get_context("spawn")
    return context


@contextlib.contextmanager
def one_thread() -> Iterator[Mapping[str, str]]:
    """Processes started within compute on one thread each, as OpenMP reads it in the environment
    when it is loaded; gives that."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    with _ENVIRONMENT:
        before = {name: os.environ.get(name) for name in names}
        os.environ.update(dict.fromkeys(names, "1"))
        try:
            yield dict(os.environ)
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def take_over(environment: Mapping[str, str]) -> None:
    """In a new process, first: have its parent's environment, not that of the process it is a copy
    of, and end when that parent does, for an orphan must not write what others may do again."""
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def one_of_many() -> None:
    """This process shares a processor's cores with others like it: it computes on one thread, and
    keeps memory (`keep_memory`)."""
    compute_on_one_thread()
    keep_memory()


def compute_on_one_thread() -> None:
    """This process does: another number of threads may round otherwise, and give other bytes."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def keep_memory() -> None:
    """What this process frees stays with it from now on, where the C library (glibc) can do that.

    Else each large tensor is given back to the system and the next one gets pages that it has to
    clear: of drawing eight pictures of 256 px at once that was two fifths of the time. For stages
    of the pipeline, which end; what serves for long gives back what it does not need.
    """
    trim_threshold, most_mapped, most = -1, -4, 2**31 - 1  # names and numbers of malloc.h
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(trim_threshold, most)
        library.mallopt(most_mapped, 0)


def processors() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def process_pool(
    workers: int, start: Callable[..., None] | None = None, *setup: Any
) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes each call `start(*setup)` first, where there is one.

    They end when this process does, also when it is killed. An error in the block, or Ctrl-C,
    cancels what has not begun. `BrokenProcessPool` where one of them is killed.
    """
    with one_thread() as environment:
        begin = (environment, start, *setup)
    with ProcessPoolExecutor(workers, processes(), _begin, begin) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin(environment: Mapping[str, str], start: Callable[..., None] | None, *setup: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # of Ctrl-C the parent speaks, and only it
    take_over(environment)
    one_of_many()
    if start is not None:
        start(*setup)


def _end_with_parent() -> None:
    """A killed parent cannot stop its pool, whose processes would wait for work for ever."""
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)
