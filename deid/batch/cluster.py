"""A batch on a Ray cluster: the same shards, done by an actor for each process on any node.

Each actor holds one worker process of `ProcessPool`, with networks loaded once, so that a file has
the same time limit and isolation as on one machine. Ray Data gives an actor no more shards than it
is about to work on, and gives those of a lost node to another: what was written there is found to
be the same bytes. The lease, the journal and the manifest stay with this process.

Every node needs this package, the model's files at the same paths, and its own credentials.
"""

import os
import pickle
import socket
from collections.abc import Iterator, Sequence
from itertools import islice
from types import TracebackType
from typing import Any, Self

from deid.batch.manifest import RunInfo
from deid.batch.outcome import Outcome, Task
from deid.batch.plan import Locations
from deid.batch.settings import BatchSettings
from deid.batch.workers import START_TIMEOUT, Open, ProcessPool
from deid.errors import DeidError, missing_extra

TASKS, OUTCOMES = "tasks", "outcomes"  # columns of the rows that Ray carries: pickled lists
ANSWER = 10.0  # seconds that a cluster has to take a connection
AHEAD = 2  # shards that an actor has, of which it works on one


class RayCluster:
    """See `Executor`. `DeidError` where Ray is not installed or the cluster does not answer.

    Unlike other executors it takes all tasks at once: Ray hands them out.
    """

    def __init__(self, open_: Open, locations: Locations, batch: BatchSettings) -> None:
        self._open, self._locations, self._batch = open_, locations, batch
        self._started = False

    def __enter__(self) -> Self:
        ray = _ray()
        if not ray.is_initialized():
            self._connect(ray)
            self._started = True
        try:
            greet = ray.remote(num_cpus=1, num_gpus=self._batch.gpus)(_info)
            self.info: RunInfo = ray.get(greet.remote(self._open), timeout=START_TIMEOUT)
        except ray.exceptions.RayError as error:  # also that no node has room within that time
            self.__exit__(None, None, None)
            raise DeidError(f"the Ray cluster cannot load the networks: {_said(error)}") from None
        return self

    def _connect(self, ray: Any) -> None:
        local = {"num_cpus": self._batch.jobs, "include_dashboard": False}
        try:
            _knock(self._batch.address)
            ray.init(
                address=self._batch.address or "local",
                log_to_driver=False,
                **({} if self._batch.address else local),
            )
        except (OSError, RuntimeError, ValueError) as error:
            where = f"--address {self._batch.address}" if self._batch.address else "--engine ray"
            raise DeidError(
                f"{where}: {_said(error)}; start a cluster with `ray start --head`, or correct the "
                "address"
            ) from None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._started:
            _ray().shutdown()
            self._started = False

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
            fn_constructor_args=(self._open, self._locations, self._batch.timeout),
            batch_size=1,
            compute=pool,
            num_cpus=1,
            num_gpus=self._batch.gpus,
        )
        try:
            for row in done.iter_rows():
                said = pickle.loads(row[OUTCOMES])
                if isinstance(said, DeidError):
                    raise said
                yield from said
        except ray.exceptions.RayError as error:
            raise DeidError(
                f"the Ray cluster gave up: {_said(error)}; run it again to resume"
            ) from None


class _Shards:
    """An actor: one worker process, shard after shard."""

    def __init__(self, open_: Open, locations: Locations, timeout: float) -> None:
        self._pool = ProcessPool(open_, locations, 1, timeout).__enter__()

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[bytes]]:
        return {OUTCOMES: [pickle.dumps(self._done(pickle.loads(row))) for row in rows[TASKS]]}

    def _done(self, shard: list[Task]) -> list[Outcome] | DeidError:
        try:
            return list(self._pool.work(iter(shard)))
        except DeidError as error:
            return error


def shards_of(tasks: Iterator[Task], size: int) -> Iterator[Sequence[Task]]:
    """So many tasks at a time, in their order."""
    while shard := list(islice(tasks, size)):
        yield shard


def _said(error: Exception) -> str:
    """The first line of what went wrong, where Ray reports another's error that one."""
    reason = getattr(error, "cause", None) or error
    return (str(reason) or type(reason).__name__).splitlines()[0]


def _info(open_: Open) -> RunInfo:
    return open_().info


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
