"""The worker processes of a service: a bounded queue in front, one picture in each, or several.

The event loop never waits for a picture: a thread does, at the worker's pipe. A worker that takes
too long is killed, and another one started. A new model gets new workers, one after another, and
an old one ends once its pictures are done.

With a `batch` above 1, a worker that becomes idle takes so many of those that wait already. Where
it is lost with several, each of them is asked once more, alone: none takes others along.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
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
Answer = asyncio.Future[Made | Refusal]


class _Place:
    """A worker and whose model it holds."""

    def __init__(self, worker: Worker, generation: int, ready: Ready) -> None:
        self.worker, self.generation, self.ready = worker, generation, ready


class _Asked:
    """A picture, its answer to be, and what happens if no worker comes."""

    def __init__(self, picture: PictureRequest, answer: Answer) -> None:
        self.picture, self.answer, self.alone = picture, answer, False
        self.timer: asyncio.TimerHandle | None = None


class Pool:
    """`jobs` workers; `queue` pictures may wait for one, which takes up to `batch` of them."""

    def __init__(self, jobs: int, queue: int, timeout: float, batch: int = 1) -> None:
        self._jobs, self._queue, self._timeout, self._batch = jobs, queue, timeout, batch
        self._threads = ThreadPoolExecutor(2 * jobs + 1, thread_name_prefix="deid-worker")
        self._waiting: deque[_Asked] = deque()
        self._answers: set[Answer] = set()  # of all who wait or are at work
        self._idle: deque[_Place] = deque()
        self._places: set[_Place] = set()
        self._workers: set[Worker] = set()  # every process that lives
        self._tasks: set[asyncio.Task[Any]] = set()
        self._generation = 0
        self._start: Start | None = None
        self._closed = False
        self.accepted = 0  # pictures waiting or at work
        self.lost = 0  # workers that were killed or died
        self.together = 0  # pictures that were made in a batch with others
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
        answer: Answer = asyncio.get_running_loop().create_future()
        self._answers.add(answer)
        answer.add_done_callback(self._leave)
        self._wait(_Asked(picture, answer))
        # A client that goes away must not leave a worker in the middle of its picture.
        return await asyncio.shield(answer)

    def _leave(self, answer: Answer) -> None:
        self.accepted -= 1
        self._answers.discard(answer)

    def _wait(self, asked: _Asked) -> None:
        loop = asyncio.get_running_loop()
        asked.timer = loop.call_later(self._timeout, self._give_up, asked)
        if asked.alone:
            self._waiting.appendleft(asked)  # it has waited before
        else:
            self._waiting.append(asked)
        loop.call_soon(self._share_out)  # not at once: others may come in the same moment

    def _give_up(self, asked: _Asked) -> None:
        if asked in self._waiting and not asked.answer.done():
            self._waiting.remove(asked)
            asked.answer.set_exception(self.overloaded())

    def _share_out(self) -> None:
        while self._idle and self._waiting:
            group = self._group()
            self._background(self._make(self._idle.popleft(), group))

    def _group(self) -> list[_Asked]:
        """Those at the head of the queue that an idle worker takes: its share, and by what pictures
        took lately no more than take half of a group's time."""
        share = -(-len(self._waiting) // len(self._idle))
        most = min(self._batch, share, int(self._timeout / 4 / max(self.seconds, 1e-3)))
        group = [self._waiting.popleft()]
        while (
            len(group) < most and self._waiting and not (group[0].alone or self._waiting[0].alone)
        ):
            group.append(self._waiting.popleft())
        for asked in group:
            if asked.timer is not None:
                asked.timer.cancel()
        return group

    def _limit(self, group: Sequence[_Asked]) -> float:
        """Seconds for a group: of several, none may be masked for the time that others took."""
        own = [asked.picture.settings.seconds or self._timeout / 2 for asked in group]
        return self._timeout if len(group) == 1 else min(self._timeout, *own)

    async def _make(self, place: _Place, group: Sequence[_Asked]) -> None:
        began, loop = time.monotonic(), asyncio.get_running_loop()
        pictures, limit = tuple(asked.picture for asked in group), self._limit(group)
        try:
            ask = place.worker.ask
            answers = await loop.run_in_executor(self._threads, ask, pictures, limit)
            pairs = list(zip(group, answers, strict=True))
        except Exception as error:
            if str(error) == TOO_LONG and len(group) > 1:
                self._took(began, group)
            await self._lose(place)
            self._failed(group, error)
            return
        self._took(began, group)
        self.together += len(group) if len(group) > 1 else 0
        for asked, answer in pairs:
            if not asked.answer.done():
                asked.answer.set_result(answer)
        await self._release(place)

    def _took(self, began: float, group: Sequence[_Asked]) -> None:
        self.seconds += 0.2 * ((time.monotonic() - began) / len(group) - self.seconds)

    def _failed(self, group: Sequence[_Asked], error: Exception) -> None:
        """Ask each of several again; say to one alone what became of it."""
        if len(group) > 1:
            log.warning("asked again, one by one", extra={"pictures": len(group)})
            for asked in reversed(group):
                asked.alone = True
                self._wait(asked)
            return
        told = error
        if isinstance(error, Lost | DeidError):
            told = Problem(503, "worker_lost", "the worker process ended; try again", 5)
            if str(error) == TOO_LONG:
                told = Problem(503, "too_slow", f"given up after {self._timeout:g} s", 60)
        if not group[0].answer.done():
            group[0].answer.set_exception(told)

    async def _release(self, place: _Place) -> None:
        if place in self._places:
            self._free(place)
        else:
            await self._end(place)

    def _free(self, place: _Place) -> None:
        self._idle.append(place)
        self._share_out()

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
        self._free(place)

    async def _retire(self, place: _Place) -> None:
        """End a worker, at once or after its pictures."""
        self._places.discard(place)
        if place in self._idle:
            self._idle.remove(place)
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
        for task in (*self._tasks, *self._answers):
            task.cancel()
        for worker in list(self._workers):  # also one that starts, or that an old model left
            await asyncio.to_thread(self._kill, worker)
        self._places.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)
