"""Draw the (image, w) pairs that everything is trained on: 70,000 of them in the paper.

Every row gets its w at once, the first `rendered` their pictures; `draw_missing` adds others.

Row i has its own z, drawn from the name "latents" and i (a torch generator a row costs 10 µs, under
a second for all, so nothing cleverer is needed). A network's last bits may depend on what else
is in its batch, so rows are always computed in the same aligned blocks of `batch_size`, whatever
shards they go to, by processes of one thread. So neither shards, workers, resuming nor even
`count` and `rendered` change a byte of a row.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from deid.errors import DeidError
from deid.latents.shards import (
    Index,
    images_path,
    later_folder,
    read_index,
    w_path,
    write_index,
)
from deid.params import SampleParams, WorldParams
from deid.pixels import Pixels, to_pixels
from deid.pool import process_pool, processes
from deid.progress import progress
from deid.seeds import torch_generator
from deid.storage.staging import resumable_directory
from deid.worlds import load_world
from deid.worlds.world import World

Shard = tuple[int, int, int]  # number, first row, end row


def sample(
    params: SampleParams,
    world_params: WorldParams,
    out: Path,
    share_out: "ShareOut | None" = None,
) -> None:
    """Draw `params.count` pairs from the world's generator into `out` (see `shards.py`).

    A killed run goes on after its last finished shard when called again. `params.workers`
    processes draw, or whatever `share_out` gives the work to. `DeidError` where a worker dies;
    errors of files and weights come as they are.
    """
    sample_from(params, partial(load_world, world_params), out, share_out)


def sample_from(
    params: SampleParams,
    load: Callable[[], World],
    out: Path,
    share_out: "ShareOut | None" = None,
) -> None:
    """`sample` from the world that `load` gives; `load` is called in every worker too."""
    world = load()
    index = Index(
        world=world.name,
        weights_sha256=world.weights_sha256,
        seed=params.seed,
        truncation=world.truncation,
        count=params.count,
        rendered=_whole_shards(params),
        shard_size=params.shard_size,
        batch_size=params.batch_size,
        resolution=_side(world, params),
        w_dim=world.generator.w_dim,
    )
    with resumable_directory(out, index.model_dump()) as working:
        for leftover in working.glob(".*.tmp"):
            leftover.unlink()
        wanted = [
            Task(shard, pictures=shard[1] < index.rendered, vectors=True)
            for shard in index.shards()
        ]
        missing = [task for task in wanted if not task.done(working)]
        share_out = share_out or partial(_draw_shards, workers=params.workers)
        share_out(missing, index, load, working)
        write_index(working, index)


def draw_missing(latents: Path, pairs: int | None, load: Callable[[], World]) -> None:
    """Draw the pictures of the first `pairs` rows in `latents` that are not there yet, into
    `later_folder`: whole shards, the same bytes as `sample` would have drawn.

    `load` is called in every process that draws. Another process that asks for the same waits.
    """
    index = read_index(latents)
    if pairs is None or pairs <= index.rendered:
        return
    folder = later_folder(latents, index)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [
        Task(shard, pictures=True, vectors=False)
        for shard in index.shards(min(pairs, index.count))
        if shard[1] >= index.rendered
    ]
    with FileLock(folder / ".lock"):
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink()
        missing = [task for task in wanted if not task.done(folder)]
        _draw_shards(missing, index, load, folder, SampleParams().workers)


def _whole_shards(params: SampleParams) -> int:
    """Rows of the shards that hold the first `params.rendered`."""
    shards = -(-(params.rendered or params.count) // params.shard_size)
    return min(shards * params.shard_size, params.count)


def _side(world: World, params: SampleParams) -> int:
    """Side of the pairs' pictures; DeidError where the world does not draw that."""
    side = params.resolution or world.resolution
    if side not in world.resolutions:
        drawn = ", ".join(map(str, world.resolutions))
        raise DeidError(f"sample.resolution: {side} px is not drawn here; write one of {drawn}")
    return side


@torch.inference_mode()
def draw_rows(
    world: World, recipe: SampleParams | Index, start: int, end: int
) -> Iterator[tuple[Pixels, NDArray[np.float32]]]:
    """Images and w of the rows `start` to `end`, in order, an aligned block or its part at a time.

    w is truncated by the world's ψ.
    """
    for w, wanted in _blocks(world, recipe, start, end):
        images = to_pixels(world.draw(w, recipe.resolution))
        yield images[wanted], w.cpu().numpy()[wanted]


def _blocks(
    world: World, recipe: SampleParams | Index, start: int, end: int
) -> Iterator[tuple[Tensor, slice]]:
    """w of each aligned block, and which of its rows are wanted."""
    size = recipe.batch_size
    for first in range(start - start % size, end, size):
        w = _draw_w(world, "latents", range(first, first + size), recipe.seed)
        yield w, slice(max(start - first, 0), min(end - first, size))


def _draw_w(world: World, name: str, rows: range, seed: int) -> Tensor:
    z_dim = world.generator.z_dim
    z = [torch.randn(z_dim, generator=torch_generator(name, i, seed)) for i in rows]
    return world.truncated_mapping(torch.stack(z).to(world.device))


@dataclass(frozen=True)
class Task:
    """A shard, and which of its two files to write."""

    shard: Shard
    pictures: bool
    vectors: bool

    def done(self, folder: Path) -> bool:
        """Whether they are there; pictures come last."""
        return (images_path if self.pictures else w_path)(folder, self.shard[0]).exists()


ShareOut = Callable[[list[Task], Index, Callable[[], World], Path], None]
"""Has shards drawn into a folder, by processes that each load the world."""


def _draw_shards(
    tasks: list[Task], index: Index, load: Callable[[], World], working: Path, workers: int
) -> None:
    """Share the shards out to processes and show how far they are."""
    if not tasks:
        return
    drawn = processes().Value("q", 0)
    setup = (load, index, working, drawn)
    shown = before = index.count - sum(end - start for _, start, end in (t.shard for t in tasks))
    try:
        with (
            progress("sample", total=index.count, done=shown) as bar,
            process_pool(workers, start_worker, *setup) as pool,
        ):
            pending: set[Future[None]] = {pool.submit(draw_shard, task) for task in tasks}
            while pending:
                finished, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                bar.advance(before + drawn.value - shown)
                shown = before + drawn.value
                for future in finished:
                    future.result()
    except BrokenProcessPool:
        raise DeidError(
            f"{working}: a sampling process was killed, perhaps for want of memory; run again "
            "to resume after the finished shards, or lower sample.workers in params.yaml"
        ) from None


@dataclass(frozen=True)
class _Worker:
    """What a sampling process keeps between shards."""

    world: World
    index: Index
    working: Path
    drawn: Any  # multiprocessing's Value: rows drawn by all workers


_worker: _Worker


def start_worker(load: Callable[[], World], index: Index, working: Path, drawn: Any) -> None:
    """What a process does before its first shard."""
    global _worker
    _worker = _Worker(load(), index, working, drawn)


@torch.inference_mode()
def draw_shard(task: Task) -> None:
    """Write the files of a shard; the images' name appears last and says that it is finished."""
    number, start, end = task.shard
    world, index, folder = _worker.world, _worker.index, _worker.working
    count, side = end - start, index.resolution
    with ExitStack() as files:
        to_images, to_w = (
            files.enter_context(_array_file(place(folder, number), dtype, (count, *shape)))
            if wanted
            else None
            for wanted, place, dtype, shape in (
                (task.pictures, images_path, np.uint8, (side, side, 3)),
                (task.vectors, w_path, np.float32, (index.w_dim,)),
            )
        )
        for w, wanted in _blocks(world, index, start, end):
            if to_images:
                to_images.write(to_pixels(world.draw(w, side))[wanted].tobytes())
            if to_w:
                to_w.write(w.cpu().numpy()[wanted].tobytes())
            with _worker.drawn.get_lock():
                _worker.drawn.value += wanted.stop - wanted.start


@contextmanager
def _array_file(path: Path, dtype: type, shape: tuple[int, ...]) -> Iterator[IO[bytes]]:
    """A `.npy` file to write row by row; it gets its name when it is whole.

    Not a memory map: a full disk kills whoever writes to one, here it is an error.
    """
    description = np.lib.format.dtype_to_descr(np.dtype(dtype))
    header = {"descr": description, "fortran_order": False, "shape": shape}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            yield file
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        error.filename = error.filename or str(path)
        raise
