"""Draw the (image, w) pairs that everything is trained on: 70,000 of them in the paper.

Row i has its own z, drawn from the name "latents" and i (a torch generator a row costs 10 µs, under
a second for all, so nothing cleverer is needed). A network's last bits may depend on what else
is in its batch, so rows are always computed in the same aligned blocks of `batch_size`, whatever
shards they go to, by processes of one thread. So neither shards, workers, resuming nor even
`count` change a byte of a row.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deid.errors import DeidError
from deid.latents.shards import Index, images_path, w_path, write_index
from deid.params import SampleParams, WorldParams
from deid.pixels import Pixels, to_pixels
from deid.progress import progress
from deid.seeds import torch_generator
from deid.storage.staging import resumable_directory
from deid.worlds import load_world
from deid.worlds.world import World

Shard = tuple[int, int, int]  # number, first row, end row


def sample(params: SampleParams, world_params: WorldParams, out: Path) -> None:
    """Draw `params.count` pairs from the world's generator into `out` (see `shards.py`).

    A killed run goes on after its last finished shard when called again. `DeidError` where a
    worker dies; errors of files and weights come as they are.
    """
    sample_from(params, partial(load_world, world_params), out)


def sample_from(params: SampleParams, load: Callable[[], World], out: Path) -> None:
    """`sample` from the world that `load` gives; `load` is called in every worker too."""
    world = load()
    index = Index(
        world=world.name,
        weights_sha256=world.weights_sha256,
        seed=params.seed,
        truncation=world.truncation,
        count=params.count,
        shard_size=params.shard_size,
        resolution=_side(world, params),
        w_dim=world.generator.w_dim,
    )
    recipe = {**index.model_dump(), "batch_size": params.batch_size}
    with resumable_directory(out, recipe) as working:
        for leftover in working.glob(".*.tmp"):
            leftover.unlink()
        missing = [s for s in index.shards() if not images_path(working, s[0]).exists()]
        if missing:
            _draw_shards(missing, params, load, working)
        write_index(working, index)


def _side(world: World, params: SampleParams) -> int:
    """Side of the pairs' pictures; DeidError where the world does not draw that."""
    side = params.resolution or world.resolution
    if side not in world.resolutions:
        drawn = ", ".join(map(str, world.resolutions))
        raise DeidError(f"sample.resolution: {side} px is not drawn here; write one of {drawn}")
    return side


@torch.inference_mode()
def draw_rows(
    world: World, params: SampleParams, start: int, end: int
) -> Iterator[tuple[Pixels, NDArray[np.float32]]]:
    """Images and w of the rows `start` to `end`, in order, an aligned block or its part at a time.

    w is truncated by the world's ψ.
    """
    size = params.batch_size
    for first in range(start - start % size, end, size):
        wanted = slice(max(start - first, 0), min(end - first, size))
        w = _draw_w(world, "latents", range(first, first + size), params.seed)
        images = to_pixels(world.draw(w, params.resolution))
        yield images[wanted], w.cpu().numpy()[wanted]


def _draw_w(world: World, name: str, rows: range, seed: int) -> Tensor:
    z_dim = world.generator.z_dim
    z = [torch.randn(z_dim, generator=torch_generator(name, i, seed)) for i in rows]
    return world.truncated_mapping(torch.stack(z).to(world.device))


def _draw_shards(
    shards: list[Shard], params: SampleParams, load: Callable[[], World], working: Path
) -> None:
    """Share the shards out to processes and show how far they are."""
    context = multiprocessing.get_context("spawn")
    drawn = context.Value("q", 0)
    setup = (load, params, working, drawn)
    shown = params.count - sum(end - start for _, start, end in shards)
    before = shown
    with (
        progress("sample", total=params.count, done=shown) as bar,
        ProcessPoolExecutor(params.workers, context, _start_worker, setup) as pool,
    ):
        pending: set[Future[None]] = {pool.submit(_draw_shard, shard) for shard in shards}
        try:
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
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@dataclass(frozen=True)
class _Worker:
    """What a sampling process keeps between shards."""

    world: World
    params: SampleParams
    working: Path
    drawn: Any  # multiprocessing's Value: rows drawn by all workers


_worker: _Worker


def _start_worker(
    load: Callable[[], World], params: SampleParams, working: Path, drawn: Any
) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # of Ctrl-C the parent speaks, and only it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _worker = _Worker(load(), params, working, drawn)


def _end_with_parent() -> None:
    """A killed parent cannot stop its pool, whose processes would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _draw_shard(shard: Shard) -> None:
    """Write both files of a shard; the images' name appears last and says that it is finished."""
    number, start, end = shard
    generator, folder = _worker.world.generator, _worker.working
    size, count = _side(_worker.world, _worker.params), end - start
    with (
        _array_file(images_path(folder, number), np.uint8, (count, size, size, 3)) as images_file,
        _array_file(w_path(folder, number), np.float32, (count, generator.w_dim)) as w_file,
    ):
        for images, w in draw_rows(_worker.world, _worker.params, start, end):
            images_file.write(images.tobytes())
            w_file.write(w.tobytes())
            with _worker.drawn.get_lock():
                _worker.drawn.value += len(images)


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
