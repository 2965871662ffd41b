"""What does a batch's work, and the simplest that does: this process, one file after another."""

import faulthandler
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from deid.batch.manifest import RunInfo
from deid.batch.outcome import Outcome, Task, Writing, give_up, process_task, remove_leftover
from deid.batch.plan import Locations

if TYPE_CHECKING:
    from deid.batch.pipeline import Pipeline

GRACE = 30.0  # seconds that code which cannot be interrupted has to return
TOO_LONG = "took too long; raise --timeout and give --retry-quarantined"


class Executor(Protocol):
    """What does the work; ready within the block."""

    @property
    def info(self) -> RunInfo: ...

    def work(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """The outcome of each task, in any order; takes no more tasks than it works on."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class InProcess:
    """This process, with a pipeline that is there already; `timeout` as in `ProcessPool`, except
    that a decoder that crashes, or never returns, ends the whole run."""

    def __init__(
        self, pipeline: "Pipeline", locations: Locations, timeout: float | None = None
    ) -> None:
        self._pipeline, self._locations, self._timeout = pipeline, locations, timeout
        self.info = pipeline.info

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def work(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """See `Executor`."""
        source, destination = self._locations.source, self._locations.destination
        given_up: list[tuple[Task, str]] = []
        for task in tasks:
            written = ""
            try:
                with _interrupted(self._timeout):
                    for said in process_task(task, self._pipeline, source, destination):
                        if isinstance(said, Writing):
                            written = said.sha256
                        else:
                            outcome = said
            except _TimeUp:
                given_up.append((task, written))
                outcome = give_up(task, TOO_LONG, destination, self.info.settings, written)
            yield outcome
        for task, written in given_up:
            remove_leftover(task, written, destination)


class _TimeUp(BaseException):
    """No `Exception`, so that nothing that fails safe takes it for a fault of its own."""


@contextmanager
def _interrupted(seconds: float | None) -> Iterator[None]:
    """Raise `_TimeUp` after so long; end the process if even that is not heeded."""
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise _TimeUp

    before = signal.signal(signal.SIGALRM, stop)
    faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=sys.__stderr__ or 2)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)
