"""Processes that do a batch's work, and may die without taking the batch along.

Each worker process loads the networks once, computes on one thread, and has one file at a time.
One that is killed, crashes or hangs costs that file its output (quarantined) and is replaced.
Every worker has a pipe of its own, since a queue that a killed process had locked stays locked.
"""

import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection
from multiprocessing.connection import Connection
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from deid.batch.executor import TOO_LONG
from deid.batch.manifest import RunInfo
from deid.batch.outcome import (
    Outcome,
    Task,
    Writing,
    error_text,
    give_up,
    process_task,
    remove_leftover,
)
from deid.batch.plan import Locations
from deid.batch.settings import TIMEOUT
from deid.errors import DeidError
from deid.pool import compute_on_one_thread, one_thread, processes, take_over
from deid.storage.protocol import Storage, StorageFailure

if TYPE_CHECKING:
    from deid.batch.pipeline import Pipeline

START_TIMEOUT = 900.0  # seconds to load the networks
log = logging.getLogger(__name__)

Open = Callable[[], "Pipeline"]
"""Builds the pipeline; can be pickled."""

Work = Callable[[Any], Any]
"""What a process does with each task: its answer, which is never None, or an iterator whose last
item that is, after what is `Writing`."""

Begin = Callable[[], tuple[Any, Work]]
"""Loads the networks, in the process: what it then says, and its work; can be pickled."""


def _begin(open_: Open, source: Storage, destination: Storage) -> tuple[RunInfo, Work]:
    pipeline = open_()
    return pipeline.info, lambda task: process_task(task, pipeline, source, destination)


@dataclass(frozen=True)
class _Broken:
    """What a worker says when it cannot continue; `kind` is `StorageFailure` or `DeidError`."""

    reason: str
    kind: type[DeidError]


class ProcessPool:
    """`jobs` processes; the first one is started at once, the others when there is work."""

    def __init__(
        self, open_: Open, locations: Locations, jobs: int, timeout: float = TIMEOUT
    ) -> None:
        self._open, self._locations = open_, locations
        self._jobs, self._timeout = jobs, timeout
        self._workers: list[Worker] = []
        self._given_up: list[tuple[Task, str]] = []

    def __enter__(self) -> Self:
        first = self._start()
        try:
            self.info = first.greeting()
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
        for worker in self._workers:
            worker.end()
        self._workers = []

    def work(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """See `Executor`."""
        self._given_up = []
        waiting = next(tasks, None)
        while waiting is not None or any(worker.task for worker in self._workers):
            for worker in self._workers:
                if waiting is not None and worker.is_idle and worker.give(waiting, self._timeout):
                    waiting = next(tasks, None)
            if waiting is not None and len(self._workers) < self._jobs:
                self._start()
                continue
            yield from self._collect()
        for task, written in self._given_up:
            remove_leftover(task, written, self._locations.destination)

    def _start(self) -> "Worker":
        where = self._locations
        worker = Worker(partial(_begin, self._open, where.source, where.destination))
        self._workers.append(worker)
        return worker

    def _collect(self) -> Iterator[Outcome]:
        """Wait until something happens; the outcomes that came of it."""
        now = time.monotonic()
        first = min((worker.deadline for worker in self._workers), default=now)
        connection.wait([worker.pipe for worker in self._workers], max(0.0, min(first - now, 60.0)))
        for worker in list(self._workers):
            try:
                outcome = worker.outcome()
            except Lost as lost:
                self._workers.remove(worker)
                worker.end()
                if worker.is_idle:
                    continue  # it had nothing to lose, and another one is started if need be
                if worker.task is None:
                    raise DeidError(
                        f"a worker process {lost} while it loaded the networks; try fewer --jobs"
                    ) from None
                task, written = worker.task, worker.written
                self._given_up.append((task, written))
                reason, destination = f"its process {lost}", self._locations.destination
                yield give_up(task, reason, destination, self.info.settings, written)
                continue
            self._require_same(worker)
            if outcome is not None:
                yield outcome

    def _require_same(self, worker: "Worker") -> None:
        """Outputs follow from the settings that the first process found, a key's file among them.
        `DeidError` for one that has begun since, and found others."""
        if worker.said is not None and worker.said.settings != self.info.settings:
            raise DeidError(
                "networks, settings or the key have changed since this run began; run it again"
            )


class Lost(Exception):
    """A worker is gone; the text says how."""


class Worker:
    """One worker process, seen from here."""

    def __init__(self, begin: Begin) -> None:
        context = processes()
        self.pipe, theirs = context.Pipe()
        with one_thread() as environment:
            self._process = context.Process(
                target=_serve,
                args=(theirs, begin, log.getEffectiveLevel(), environment),
                daemon=True,
            )
            self._process.start()
        theirs.close()
        self.said: Any = None  # once it is ready
        self.task: Any = None
        self.written = ""  # SHA-256 of what it was about to write for its task
        self.deadline = time.monotonic() + START_TIMEOUT

    @property
    def is_idle(self) -> bool:
        return self.said is not None and self.task is None

    def give(self, task: Any, timeout: float) -> bool:
        """Start a task; False where the process has died idle, which `outcome` will say."""
        if not self._process.is_alive():
            return False
        try:
            self.pipe.send(task)
        except OSError:
            return False
        self.task, self.written, self.deadline = task, "", time.monotonic() + timeout
        return True

    def greeting(self) -> Any:
        """What it says once it is ready; waits for it."""
        try:
            said = self._received() if self.pipe.poll(START_TIMEOUT) else None
        except Lost as lost:
            raise DeidError(f"a worker process {lost} while it loaded the networks") from None
        if said is None:
            raise DeidError(f"a worker process was not ready within {START_TIMEOUT:g} s; try again")
        self.said, self.deadline = said, float("inf")
        return said

    def outcome(self) -> Any:
        """That of its task, if it is there; raises `Lost` for a worker that died or hangs."""
        if not self.pipe.poll():
            if time.monotonic() > self.deadline:
                self._process.kill()
                self._process.join()
                self._hear_the_rest()
                raise Lost(TOO_LONG)
            return None
        said = self._received()
        if isinstance(said, Writing):
            self.written = said.sha256
            return None
        self.task, self.deadline = None, float("inf")
        if self.said is None:
            self.said = said
            return None
        return said

    def _hear_the_rest(self) -> None:
        """What it said in its last moment, when nobody listened any more."""
        with suppress(EOFError, OSError):
            while self.pipe.poll():
                if isinstance(said := self.pipe.recv(), Writing):
                    self.written = said.sha256

    def ask(self, task: Any, timeout: float) -> Any:
        """Its answer; waits for it. Raises `Lost` for a worker that died or takes too long."""
        if not self.give(task, timeout):
            raise Lost("ended while it was idle")
        while (answer := self.outcome()) is None:
            connection.wait([self.pipe], max(0.0, self.deadline - time.monotonic()))
        return answer

    def _received(self) -> Any:
        try:
            said = self.pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode or 0
            if code >= 0:
                raise Lost(f"ended with code {code}") from None
            how = f"was killed by signal {-code} (out of memory, or a decoder crashed)"
            raise Lost(how) from None
        if isinstance(said, _Broken):
            raise said.kind(said.reason)
        return said

    def end(self) -> None:
        self._process.kill()  # what it may be writing has a temporary name
        self._process.join()
        self.pipe.close()


def _serve(pipe: Connection, begin: Begin, level: int, environment: Mapping[str, str]) -> None:
    """The life of a worker process."""
    logging.basicConfig(level=level)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    take_over(environment)
    compute_on_one_thread()
    try:
        greeting, work = begin()
        pipe.send(greeting)
        while True:
            answer = work(pipe.recv())
            for said in answer if isinstance(answer, Iterator) else (answer,):
                pipe.send(said)
    except (StorageFailure, DeidError) as error:
        pipe.send(_Broken(str(error), type(error)))
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:
        log.debug("worker", exc_info=True)
        pipe.send(_Broken(f"a worker process failed: {error_text(error)}", DeidError))
