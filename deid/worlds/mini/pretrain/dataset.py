"""The renders on which the mini world's networks are trained.

    python -m deid.worlds.mini.pretrain.dataset --out RENDERS --identities 8000 --views 16

Picture `i` shows person `i // views`. Arrays are memory-mapped; a killed run resumes with what is
missing. Every picture follows from its index and the seed, whatever the workers did.
"""

import argparse
import json
from collections.abc import Iterable
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from deid.errors import DeidError
from deid.pixels import Pixels, to_pixels
from deid.pool import process_pool
from deid.progress import progress
from deid.storage.staging import resumable_directory
from deid.worlds.mini.generator import RESOLUTION
from deid.worlds.mini.render.parameters import PARAMETERS, sample_parameters
from deid.worlds.mini.render.renderer import render

Indices = NDArray[np.integer]
Split = Literal["train", "validation", "test"]

_SETTINGS = "settings.json"
_CHUNK = 200
_HELD_OUT = {"validation": 0.03, "test": 0.03}  # shares of the people


@dataclass(frozen=True)
class RenderSettings:
    """What the pictures depend on."""

    identities: int = 8_000
    views: int = 16
    seed: int = 0

    @property
    def count(self) -> int:
        return self.identities * self.views


def _arrays(count: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {
        "images": ("|u1", (count, RESOLUTION, RESOLUTION, 3)),
        "parameters": ("<f4", (count, PARAMETERS)),
        "landmarks": ("<f4", (count, 68, 2)),
    }


class Renders:
    """The finished folder; every method takes picture indices `[N]` in any order."""

    def __init__(self, root: Path) -> None:
        """Raises DeidError when `root` holds no finished renders."""
        try:
            self.settings = RenderSettings(**json.loads((root / _SETTINGS).read_text()))
            names = _arrays(self.settings.count)
            self._of = {name: np.load(root / f"{name}.npy", mmap_mode="r") for name in names}
        except (OSError, ValueError, TypeError) as error:
            raise DeidError(f"{root}: no finished renders ({error}); run `make pretrain`") from None
        people = np.arange(self.settings.identities, dtype=np.int64)
        self.identities: NDArray[np.int64] = np.repeat(people, self.settings.views)

    def __len__(self) -> int:
        return self.settings.count

    def images(self, indices: Indices) -> Pixels:
        """`uint8 [N,64,64,3]`."""
        return np.asarray(self._of["images"][indices])

    def parameters(self, indices: Indices) -> NDArray[np.float32]:
        """`[N,P]`."""
        return np.asarray(self._of["parameters"][indices])

    def landmarks(self, indices: Indices) -> NDArray[np.float32]:
        """`[N,68,2]` pixels."""
        return np.asarray(self._of["landmarks"][indices])

    def split(self, name: Split) -> NDArray[np.int64]:
        """Picture indices of a part; no person is in two of them."""
        people = self.settings.identities
        held = {part: max(1, round(people * share)) for part, share in _HELD_OUT.items()}
        first = {"test": people - held["test"]}
        first["validation"] = first["test"] - held["validation"]
        first["train"] = 0
        last = {"train": first["validation"], "validation": first["test"], "test": people}
        views = self.settings.views
        return np.arange(first[name] * views, last[name] * views, dtype=np.int64)


def make_renders(settings: RenderSettings, out: Path, workers: int = 2) -> None:
    """Render everything into `out`; resumes from `<out>.partial` after a kill."""
    with resumable_directory(out, asdict(settings)) as working:
        chunks = range(-(-settings.count // _CHUNK))
        done = _prepare(working, settings, len(chunks))
        missing = [chunk for chunk in chunks if not done[chunk]]
        finished = settings.count - len(missing) * _CHUNK
        with progress("renders", settings.count, finished) as bar:
            for chunk in _rendered(missing, working, settings, workers):
                done[chunk] = 1
                done.flush()
                bar.advance(_CHUNK)
        del done
        (working / "done.npy").unlink()
        (working / _SETTINGS).write_text(json.dumps(asdict(settings)) + "\n")


def _prepare(working: Path, settings: RenderSettings, chunks: int) -> np.memmap[Any, Any]:
    """Create the empty arrays once; the map of finished chunks comes last and vouches for them."""
    path = working / "done.npy"
    if not path.is_file():
        for name, (dtype, shape) in _arrays(settings.count).items():
            open_memmap(working / f"{name}.npy", "w+", dtype=dtype, shape=shape).flush()
        open_memmap(path, "w+", dtype="|u1", shape=(chunks,)).flush()
    return open_memmap(path, "r+")


def _rendered(
    chunks: list[int], working: Path, settings: RenderSettings, workers: int
) -> Iterable[int]:
    """Render the chunks in `workers` processes; yields each when it is on disk."""
    with process_pool(workers) as pool:
        started = [pool.submit(_render_chunk, working, settings, chunk) for chunk in chunks]
        for done in as_completed(started):
            yield done.result()


def _render_chunk(working: Path, settings: RenderSettings, chunk: int) -> int:
    rows = slice(chunk * _CHUNK, min((chunk + 1) * _CHUNK, settings.count))
    pairs = [divmod(i, settings.views) for i in range(rows.start, rows.stop)]
    parameters = np.stack(
        [sample_parameters(person, view, settings.seed) for person, view in pairs]
    )
    rendered = render(torch.from_numpy(parameters), RESOLUTION)
    values = {
        "images": to_pixels(rendered.images),
        "parameters": parameters,
        "landmarks": rendered.landmarks.numpy(),
    }
    for name, value in values.items():
        array = np.load(working / f"{name}.npy", mmap_mode="r+")
        array[rows] = value
        array.flush()
    return chunk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--identities", type=int, default=RenderSettings.identities)
    parser.add_argument("--views", type=int, default=RenderSettings.views)
    parser.add_argument("--seed", type=int, default=RenderSettings.seed)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    settings = RenderSettings(given.identities, given.views, given.seed)
    make_renders(settings, given.out, given.workers)


if __name__ == "__main__":
    main()
