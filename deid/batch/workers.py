"""Who does a batch's work: this process, or others that may die without taking the batch along.

Each worker process loads the networks once, computes on one thread, and has one file at a time.
One that is killed, crashes or hangs costs that file its output (quarantined) and is replaced.
Every worker has a pipe of its own, since a queue that a killed process had locked stays locked.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from deid.batch.batch import About, Places
from deid.batch.outcome import Outcome, Task, bring_to_end, give_up
from deid.errors import DeidError
from deid.storage.local import Storage, StorageFailure

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from deid.batch.run import Workshop

TIMEOUT = 300.0  # seconds for one file
START_TIMEOUT = 900.0  # seconds to load the networks
_SPAWN = get_context("spawn")  # a forked copy of a threaded process may hang

Open = Callable[[], "Workshop"]
"""Builds the tools; can be pickled."""


class Inline:
    """This process, with a workshop that is there already."""

    def __init__(self, workshop: "Workshop", places: Places) -> None:
        self._workshop, self._places = workshop, places
        self.about = workshop.about

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def work(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """See `Crew`."""
        places = self._places
        for task in tasks:
            yield bring_to_end(task, self._workshop, places.source, places.destination)


@dataclass(frozen=True)
class _Broken:
    """What a worker says when it cannot go on; `fatal` for the whole batch."""

    reason: str
    kind: type[DeidError]


class Pool:
    """`jobs` processes; the first one is started at once, the others when there is work."""

    def __init__(self, open_: Open, places: Places, jobs: int, timeout: float = TIMEOUT) -> None:
        if jobs < 1 or timeout <= 0:
            raise DeidError(f"{jobs} jobs, {timeout:g} s: both must be more than 0")
        self._open, self._places = open_, places
        self._jobs, self._timeout = jobs, timeout
        self._hands: list[_Hand] = []

    def __enter__(self) -> Self:
        first = self._hire()
        try:
            self.about = first.greeting()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for hand in self._hands:
            hand.end()
        self._hands = []

    def work(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """See `Crew`."""
        waiting = next(tasks, None)
        while waiting is not None or any(hand.task for hand in self._hands):
            for hand in self._hands:
                if waiting is not None and hand.is_idle:
                    hand.give(waiting, self._timeout)
                    waiting = next(tasks, None)
            if waiting is not None and len(self._hands) < self._jobs:
                self._hire()
                continue
            yield from self._collect()

    def _hire(self) -> "_Hand":
        hand = _Hand(self._open, self._places.source, self._places.destination)
        self._hands.append(hand)
        return hand

    def _collect(self) -> Iterator[Outcome]:
        """Wait until something happens; the outcomes that came of it."""
        now = time.monotonic()
        first = min((hand.deadline for hand in self._hands), default=now)
        connection.wait([hand.pipe for hand in self._hands], max(0.0, min(first - now, 60.0)))
        for hand in list(self._hands):
            try:
                outcome = hand.outcome()
            except _Lost as lost:
                self._hands.remove(hand)
                hand.end()
                if hand.task is None:
                    raise DeidError(
                        f"a worker process {lost} before it had any work; try fewer --jobs"
                    ) from None
                yield give_up(hand.task, f"its process {lost}", self._places.destination)
                continue
            if outcome is not None:
                yield outcome


class _Lost(Exception):
    """A worker is gone; the text says how."""


class _Hand:
    """One worker process, seen from here."""

    def __init__(self, open_: Open, source: Storage, destination: Storage) -> None:
        self.pipe, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(
            target=_serve, args=(theirs, open_, source, destination), daemon=True
        )
        with _unthreaded():
            self._process.start()
        theirs.close()
        self.task: Task | None = None
        self.deadline = time.monotonic() + START_TIMEOUT
        self._ready = False

    @property
    def is_idle(self) -> bool:
        return self._ready and self.task is None

    def give(self, task: Task, timeout: float) -> None:
        """Start a task."""
        self.task, self.deadline = task, time.monotonic() + timeout
        with suppress(OSError):  # it died idle; `outcome` will say so
            self.pipe.send(task)

    def greeting(self) -> About:
        """What it says once it is ready; waits for it."""
        try:
            said = self._received() if self.pipe.poll(START_TIMEOUT) else None
        except _Lost as lost:
            raise DeidError(f"a worker process {lost} while it loaded the networks") from None
        if not isinstance(said, About):
            raise DeidError(f"a worker process was not ready within {START_TIMEOUT:g} s; try again")
        self._be_ready()
        return said

    def _be_ready(self) -> None:
        self._ready, self.task, self.deadline = True, None, float("inf")

    def outcome(self) -> Outcome | None:
        """That of its task, if it is there; raises `_Lost` for a worker that died or hangs."""
        if not self.pipe.poll():
            if time.monotonic() > self.deadline:
                self._process.kill()
                raise _Lost("took too long; raise --timeout")
            return None
        said = self._received()
        self._be_ready()
        return said if isinstance(said, Outcome) else None

    def _received(self) -> Any:
        try:
            said = self.pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode or 0
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            raise _Lost(f"{how} (out of memory, or a decoder crashed)") from None
        if isinstance(said, _Broken):
            raise said.kind(said.reason)
        return said

    def end(self) -> None:
        self._process.kill()  # what it may be writing has a temporary name
        self._process.join()
        self.pipe.close()


class _unthreaded:
    """Processes started within compute on one thread each: OpenMP reads this as it is loaded."""

    NAMES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

    def __enter__(self) -> None:
        self._before = {name: os.environ.get(name) for name in self.NAMES}
        os.environ.update(dict.fromkeys(self.NAMES, "1"))

    def __exit__(self, *_: object) -> None:
        for name, value in self._before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(
    pipe: "Connection[Any, Any]", open_: Open, source: Storage, destination: Storage
) -> None:
    """The life of a worker process."""
    import cv2
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        workshop = open_()
        pipe.send(workshop.about)
        while True:
            pipe.send(bring_to_end(pipe.recv(), workshop, source, destination))
    except (StorageFailure, DeidError) as error:
        pipe.send(_Broken(str(error), type(error)))
    except (EOFError, BrokenPipeError):
        return


def _die_with_parent() -> None:
    """An orphan must not write any more: the batch may have been started again."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
