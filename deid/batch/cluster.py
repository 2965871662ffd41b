"""A batch on a Ray cluster: the same shards, done by an actor for each process on any node.

Each actor holds one worker process of `ProcessPool`, with networks loaded once, so that a file has
the same time limit and isolation as on one machine. Ray Data gives an actor no more shards than it
is about to work on, and gives those of a lost node to another: what was written there is found to
be the same bytes. The lease, the journal and the manifest stay with this process.

Every node needs this package, the model's files at the same paths, and its own credentials.
"""

import pickle
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from types import TracebackType
from typing import Any, Self

from deid.batch.manifest import RunInfo
from deid.batch.outcome import Outcome, Task
from deid.batch.plan import Locations
from deid.batch.settings import BatchSettings
from deid.batch.workers import START_TIMEOUT, Open, ProcessPool
from deid.cluster import connected, said
from deid.errors import DeidError
from deid.storage.local import LocalStorage

TASKS, OUTCOMES = "tasks", "outcomes"  # columns of the rows that Ray carries: pickled lists
AHEAD = 2  # shards that an actor has, of which it works on one


class RayCluster:
    """See `Executor`. `DeidError` where Ray is not installed or the cluster does not answer.

    Unlike other executors it takes all tasks at once: Ray hands them out.
    """

    def __init__(self, open_: Open, locations: Locations, batch: BatchSettings) -> None:
        self._open, self._locations, self._batch = open_, locations, batch
        self._connection = ExitStack()

    def __enter__(self) -> Self:
        batch = self._batch
        ray = self._connection.enter_context(connected(batch.address, batch.jobs))
        try:
            greet = ray.remote(num_cpus=1, num_gpus=batch.gpus)(_info)
            self.info: RunInfo = ray.get(greet.remote(self._open), timeout=START_TIMEOUT)
        except ray.exceptions.RayError as error:  # also that no node has room within that time
            self._connection.close()
            raise DeidError(f"the Ray cluster cannot load the networks: {said(error)}") from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    def work(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """See `Executor`; of a lost node, shards are done again."""
        rows = [{TASKS: pickle.dumps(shard)} for shard in shards_of(tasks, self._batch.shard_size)]
        if not rows:
            return
        import ray.data

        ray.data.DataContext.get_current().enable_progress_bars = False
        pool = ray.data.ActorPoolStrategy(
            size=min(self._batch.jobs, len(rows)), max_tasks_in_flight_per_actor=AHEAD
        )
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Shards,
            fn_constructor_args=(self._open, self._locations, self._batch.timeout, self.info),
            batch_size=1,
            compute=pool,
            num_cpus=1,
            num_gpus=self._batch.gpus,
        )
        try:
            for row in done.iter_rows():
                done_or_not = pickle.loads(row[OUTCOMES])
                if isinstance(done_or_not, DeidError):
                    raise done_or_not
                yield from done_or_not
        except ray.exceptions.RayError as error:
            raise DeidError(
                f"the Ray cluster gave up: {said(error)}; run it again to resume"
            ) from None
        destination = self._locations.destination
        if isinstance(destination, LocalStorage) and self._locations.single is None:
            destination.clean()  # what lost nodes left half-written


class _Shards:
    """An actor: one worker process, shard after shard."""

    def __init__(self, open_: Open, locations: Locations, timeout: float, info: RunInfo) -> None:
        self._pool = ProcessPool(open_, locations, 1, timeout).__enter__()
        self._agrees = self._pool.info.settings == info.settings

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[bytes]]:
        return {OUTCOMES: [pickle.dumps(self._done(pickle.loads(row))) for row in rows[TASKS]]}

    def _done(self, shard: list[Task]) -> list[Outcome] | DeidError:
        if not self._agrees:
            return DeidError(
                f"{socket.gethostname()}: this node of the cluster has other networks, settings or "
                "another key at the same paths; make them the same, then run it again to resume"
            )
        try:
            return list(self._pool.work(iter(shard)))
        except DeidError as error:
            return error


def shards_of(tasks: Iterator[Task], size: int) -> Iterator[Sequence[Task]]:
    """So many tasks at a time, in their order."""
    while shard := list(islice(tasks, size)):
        yield shard


def _info(open_: Open) -> RunInfo:
    return open_().info
