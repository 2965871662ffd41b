"""Drawing pairs on a Ray cluster whose nodes share the folder of the pairs, at the same path."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from deid.cluster import connected, said
from deid.errors import DeidError
from deid.latents.sample import Task, draw_shard, start_worker
from deid.latents.shards import Index
from deid.pool import processes, processors
from deid.progress import progress
from deid.worlds.world import World

Setup = tuple[Callable[[], World], Index, Path]


@dataclass(frozen=True)
class Cluster:
    """See `deid.latents.sample.ShareOut`; all nodes draw that have room."""

    address: str | None  # HOST:PORT or auto; None: one on this machine
    gpus: float = 0.0  # for each process

    def __call__(
        self, tasks: list[Task], index: Index, load: Callable[[], World], working: Path
    ) -> None:
        """A task of Ray a shard; those of a lost node are done on another one. `DeidError` where
        the cluster gives up, or does not share the folder."""
        if not tasks:
            return
        working = working.resolve()
        drawn = index.count - sum(end - start for _, start, end in (task.shard for task in tasks))
        with (
            connected(self.address, processors()) as ray,
            progress("sample", total=index.count, done=drawn) as bar,
        ):
            draw = ray.remote(num_cpus=1, num_gpus=self.gpus, max_retries=-1, max_calls=0)(_draw)
            setup = ray.put((load, index, working))
            pending = {draw.remote(setup, task): task for task in tasks}
            try:
                while pending:
                    (done,), _ = ray.wait(list(pending))
                    ray.get(done)
                    _, start, end = pending.pop(done).shard
                    bar.advance(end - start)
            except ray.exceptions.RayError as error:
                raise DeidError(
                    f"the Ray cluster gave up: {said(error)}; run it again to resume"
                ) from None
        for leftover in working.glob(".*.tmp"):  # of lost nodes
            leftover.unlink()
        if not all(task.done(working) for task in tasks):
            raise DeidError(
                f"{working}: what the cluster drew is not here; let its nodes share this folder"
            )


_begun: Setup | None = None


def _draw(setup: Setup, task: Task) -> None:
    """In a process of the cluster, which keeps the world for its next shard."""
    global _begun
    load, index, working = setup
    torch.set_num_threads(1)
    if _begun is None or _begun[1:] != (index, working):
        start_worker(load, index, working, processes().Value("q", 0))
        _begun = setup
    draw_shard(task)
