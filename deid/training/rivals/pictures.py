"""The faces that learned rivals are trained on: people of a world, who are in no test.

    python -m deid.training.rivals.pictures --params params.yaml --people 5000 --out FOLDER

Picture `i` shows person `i // views`. A killed run resumes with what is missing.
"""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from deid.errors import DeidError
from deid.params import WorldParams, load_params
from deid.pixels import quantize, to_pixels, to_tensor
from deid.pool import process_pool
from deid.progress import progress
from deid.seeds import torch_generator
from deid.storage.staging import resumable_directory
from deid.worlds import load_world
from deid.worlds.world import World

SIDE = 64
"""At which the learned rivals draw, in pixels."""

FIRST_SEED = 10_000
"""Of the people: evaluations count theirs from 0."""

AT_ONCE = 50
"""People whom one seed gives."""

VALIDATION = 0.04
"""The share of the people, the last, whom no network is trained on."""

_SETTINGS, _ARRAYS = "settings.json", ("pixels", "landmarks", "codes")


@dataclass(frozen=True)
class PictureSettings:
    """What the pictures depend on."""

    world: str  # the hash of its weights
    people: int
    views: int


class Pictures:
    """A finished folder; every method takes picture indices `[N]` in any order."""

    def __init__(self, root: Path) -> None:
        """Raises `DeidError` where `root` holds no finished pictures."""
        try:
            self.settings = PictureSettings(**json.loads((root / _SETTINGS).read_text()))
            self._of = {name: np.load(root / f"{name}.npy") for name in _ARRAYS}
        except (OSError, ValueError, TypeError) as error:
            raise DeidError(
                f"{root}: no finished pictures ({error}); run `dvc repro` in data/rivals"
            ) from None

    def __len__(self) -> int:
        return len(self._of["pixels"])

    def images(self, indices: NDArray[np.integer]) -> Tensor:
        """`[N,3,64,64]` in [-1, 1]."""
        return to_tensor(self._of["pixels"][indices])

    def landmarks(self, indices: NDArray[np.integer]) -> Tensor:
        """68 of each, in pixels, x first: `[N,68,2]`."""
        return torch.from_numpy(self._of["landmarks"][indices])

    def codes(self, indices: NDArray[np.integer]) -> Tensor:
        """En_id of each, unit vectors `[N,dim]`."""
        return torch.from_numpy(self._of["codes"][indices])

    def person(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """Whom each shows, `[N]`."""
        return np.asarray(indices, np.int64) // self.settings.views

    def split(self, validation: bool = False) -> NDArray[np.int64]:
        """Pictures to train on, or those for `validation`; no person is in both."""
        trained = round(self.settings.people * (1.0 - VALIDATION)) * self.settings.views
        return np.arange(trained, len(self)) if validation else np.arange(trained)


def make_pictures(world_params: WorldParams, count: int, views: int, out: Path, jobs: int) -> None:
    """Draw everything into `out`, in `jobs` processes; resumes from `<out>.partial`."""
    settings = PictureSettings(load_world(world_params).weights_sha256, count, views)
    with resumable_directory(out, asdict(settings)) as working:
        parts = range(-(-count // AT_ONCE))
        missing = [part for part in parts if not _file(working, part).is_file()]
        with (
            progress("pictures", len(parts), len(parts) - len(missing)) as bar,
            process_pool(jobs, _open, world_params) as pool,
        ):
            started = [pool.submit(_draw_part, working, part, views) for part in missing]
            for done in as_completed(started):
                done.result()
                bar.advance()
        _join([_file(working, part) for part in parts], count * views, working)
        (working / _SETTINGS).write_text(json.dumps(asdict(settings)) + "\n")


def _join(parts: Sequence[Path], count: int, working: Path) -> None:
    loaded = [dict(np.load(part)) for part in parts]
    for name in _ARRAYS:
        np.save(working / f"{name}.npy", np.concatenate([part[name] for part in loaded])[:count])
    for part in parts:
        part.unlink()


def _file(working: Path, part: int) -> Path:
    return working / f"part-{part:04d}.npz"


_opened: list[World] = []
"""The world of a process of the pool."""


def _open(params: WorldParams) -> None:
    _opened.append(load_world(params))


def _draw_part(working: Path, part: int, views: int) -> None:
    (world,) = _opened
    seen = [_seen(world, face) for face in torch.split(_drawn(world, part, views), 1)]
    arrays = {name: np.concatenate([one[name] for one in seen]) for name in _ARRAYS}
    temporary = working / f"part-{part:04d}.tmp"
    with temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    temporary.replace(_file(working, part))


def _drawn(world: World, part: int, views: int) -> Tensor:
    """People in so many views; where one is enough, small ones, which are drawn sooner."""
    if views == 1:
        stream, side = f"rivals/pictures {part}", world.resolutions[0]
        z = [
            torch.randn(1, world.generator.z_dim, generator=torch_generator(stream, i))
            for i in range(AT_ONCE)
        ]
        with torch.no_grad():
            faces = [world.draw(world.truncated_mapping(one), side) for one in z]
        return quantize(torch.cat(faces))
    return to_tensor(world.test_faces(AT_ONCE, views, FIRST_SEED + part).pixels)


@torch.no_grad()
def _seen(world: World, face: Tensor) -> dict[str, NDArray[Any]]:
    scale = SIDE / face.shape[-1]
    return {
        "pixels": to_pixels(F.interpolate(face, size=(SIDE, SIDE), mode="area")),
        "landmarks": world.landmarks(face).numpy() * np.float32(scale),
        "codes": world.identity(face).numpy(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, required=True, help="whose world is drawn from")
    parser.add_argument("--people", type=int, required=True)
    parser.add_argument("--views", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    world = load_params(given.params).world
    make_pictures(world, given.people, given.views, given.out, given.jobs)


if __name__ == "__main__":
    main()
