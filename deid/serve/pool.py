"""The worker processes of a service: a bounded queue in front, one picture in each.

The event loop never waits for a picture: a thread does, at the worker's pipe. A worker that takes
too long is killed, and another one started. A new model gets new workers, one after another, and
an old one ends once its picture is done.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from deid.batch.executor import TOO_LONG
from deid.batch.workers import Lost, Worker
from deid.errors import DeidError
from deid.serve.problems import Problem
from deid.serve.work import Made, PictureRequest, Ready, Refusal

log = logging.getLogger(__name__)
AGAIN = 5.0  # seconds until a worker that could not be started is tried again

Start = Callable[[], Worker]


class _Place:
    """A worker and whose model it holds."""

    def __init__(self, worker: Worker, generation: int, ready: Ready) -> None:
        self.worker, self.generation, self.ready = worker, generation, ready


class Pool:
    """`jobs` workers; `queue` pictures may wait for one."""

    def __init__(self, jobs: int, queue: int, timeout: float) -> None:
        self._jobs, self._queue, self._timeout = jobs, queue, timeout
        self._threads = ThreadPoolExecutor(2 * jobs + 1, thread_name_prefix="deid-worker")
        self._idle: asyncio.Queue[_Place] = asyncio.Queue()
        self._places: set[_Place] = set()
        self._workers: set[Worker] = set()  # every process that lives
        self._tasks: set[asyncio.Task[Any]] = set()
        self._generation = 0
        self._start: Start | None = None
        self._closed = False
        self.accepted = 0  # pictures waiting or at work
        self.lost = 0  # workers that were killed or died
        self.ready: Ready | None = None
        self.seconds = 1.0  # that a picture took, lately

    @property
    def is_ready(self) -> bool:
        """Whether there is any worker."""
        return bool(self._places)

    @property
    def is_full(self) -> bool:
        """Whether a further picture would be refused."""
        return self.accepted >= self._jobs + self._queue

    def overloaded(self) -> Problem:
        """What a refused one is told: when as many are done as wait now."""
        wait = max(1, round(self._queue * self.seconds / self._jobs))
        return Problem(503, "overloaded", "too many pictures wait already", min(wait, 60))

    async def use(self, start: Start) -> Ready:
        """Workers of `start` instead of those there are, one after another; no picture is lost.

        `DeidError`, and the old ones stay, where the first one cannot be started.
        """
        first = await self._spawn(start, self._generation + 1)
        self._start, self._generation, self.ready = start, first.generation, first.ready
        self._add(first)
        for old in [place for place in self._places if place.generation < self._generation]:
            if len(self._places) > self._jobs:
                await self._retire(old)
        missing = self._jobs - sum(p.generation == self._generation for p in self._places)
        for _ in range(missing):
            self._background(self._replace())
        return first.ready

    async def run(self, picture: PictureRequest) -> Made | Refusal:
        """What becomes of a picture; `Problem` where the queue is full or its worker was lost."""
        if self.is_full:
            raise self.overloaded()
        self.accepted += 1
        task = self._background(self._done(picture))
        task.add_done_callback(lambda _: self._leave())
        # A client that goes away must not leave a worker in the middle of its picture.
        answer: Made | Refusal = await asyncio.shield(task)
        return answer

    def _leave(self) -> None:
        self.accepted -= 1

    async def _done(self, picture: PictureRequest) -> Made | Refusal:
        try:
            place = await asyncio.wait_for(self._take(), self._timeout)
        except TimeoutError:
            raise self.overloaded() from None
        began, loop = time.monotonic(), asyncio.get_running_loop()
        try:
            answer: Made | Refusal = await loop.run_in_executor(
                self._threads, place.worker.ask, picture, self._timeout
            )
        except Exception as error:
            await self._lose(place)
            if not isinstance(error, Lost | DeidError):
                raise
            if str(error) == TOO_LONG:
                raise Problem(503, "too_slow", f"given up after {self._timeout:g} s", 60) from None
            raise Problem(503, "worker_lost", "the worker process ended; try again", 5) from None
        self.seconds += 0.2 * (time.monotonic() - began - self.seconds)
        await self._release(place)
        return answer

    async def _take(self) -> _Place:
        while True:
            place = await self._idle.get()
            if place in self._places:  # else it was retired while it was idle
                return place

    async def _release(self, place: _Place) -> None:
        if place in self._places:
            self._idle.put_nowait(place)
        else:
            await self._end(place)

    async def _lose(self, place: _Place) -> None:
        self.lost += 1
        self._places.discard(place)
        await self._end(place)
        if not self._closed:
            self._background(self._replace())

    async def _replace(self) -> None:
        """One more worker of the present model, in place of one that is lost or of an old one."""
        while not self._closed and self._start is not None:
            generation = self._generation
            try:
                place = await self._spawn(self._start, generation)
            except (DeidError, OSError) as error:  # the latter where the machine has no room
                log.error("worker not started", extra={"reason": str(error)})
                await asyncio.sleep(AGAIN)
                continue
            if generation != self._generation:
                await self._end(place)
                continue
            if sum(p.generation == generation for p in self._places) >= self._jobs:
                await self._end(place)
                return
            self._add(place)
            for old in [p for p in self._places if p.generation < self._generation]:
                await self._retire(old)
                break
            return

    async def _spawn(self, start: Start, generation: int) -> _Place:
        def started() -> _Place:
            worker = start()
            self._workers.add(worker)
            try:
                if self._closed:
                    raise DeidError("the service ends")
                return _Place(worker, generation, worker.greeting())
            except BaseException:
                self._kill(worker)
                raise

        return await asyncio.to_thread(started)

    def _add(self, place: _Place) -> None:
        self._places.add(place)
        self._idle.put_nowait(place)

    async def _retire(self, place: _Place) -> None:
        """End a worker, at once or after its picture."""
        self._places.discard(place)
        waiting = [self._idle.get_nowait() for _ in range(self._idle.qsize())]
        for other in waiting:
            if other is not place:
                self._idle.put_nowait(other)
        if place in waiting:
            await self._end(place)

    async def _end(self, place: _Place) -> None:
        await asyncio.to_thread(self._kill, place.worker)

    def _kill(self, worker: Worker) -> None:
        with suppress(KeyError):  # another thread was faster
            self._workers.remove(worker)
            worker.end()

    def _background(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """End every worker; what is at work is lost."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        for worker in list(self._workers):  # also one that starts, or that an old model left
            await asyncio.to_thread(self._kill, worker)
        self._places.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)
