"""The cells of an evaluation: which there are, their files, and processes that share them out.

A cell is one method on one repetition's faces. Each finished one is a small JSON file, beside one
with those of its pictures that the figures show, so a killed run repeats few and ends the same.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from deid.errors import DeidError
from deid.evaluate.cells import Bench, Cell, made_for, measure, produce, tables
from deid.evaluate.faces import HeldOut, first_of_each, kept_faces
from deid.evaluate.groups import PEOPLE, SCENES, draw_groups
from deid.evaluate.plots import SHOWN, png
from deid.params import EvaluateParams
from deid.pixels import Pixels, to_pixels
from deid.pool import process_pool
from deid.progress import progress
from deid.storage.staging import write_atomically

Key = tuple[str, str, int]  # table, method, repetition


@dataclass(frozen=True)
class Cells:
    """Works out the cells of `params` on a bench, each into its files in `folder`."""

    bench: Bench
    params: EvaluateParams
    folder: Path
    faces: Callable[[int], HeldOut]  # of a repetition; drawn and encoded once

    @classmethod
    def on(cls, bench: Bench, params: EvaluateParams, folder: Path) -> "Cells":
        """With the held-out faces of the bench's world."""
        faces = cache(lambda seed: kept_faces(bench.world, params, seed, folder))
        return cls(bench, params, folder, faces)

    def all(self) -> Mapping[Key, Cell]:
        """Every cell; what has no file yet is worked out here, one after another."""
        missing = missing_of(self.params, self.folder)
        wanted = plan(self.params)
        with progress("evaluate", len(wanted), len(wanted) - len(missing)) as bar:
            for keys in together(missing):
                bar.note(f"{keys[0][1]}, repetition {keys[0][2] + 1} of {self.params.seeds}")
                self.work_out(keys)
                bar.advance(len(keys))
        return {key: cell for key in wanted if (cell := read_cell(self.folder, key)) is not None}

    def work_out(self, keys: Sequence[Key]) -> None:
        """The cells of one output, each into its files."""
        faces = self.faces(keys[0][2])
        output = produce(self.bench, keys[0][1], faces, keys[0][0])
        shown = to_pixels(output.images[torch.from_numpy(first_of_each(faces, SHOWN))])
        for key in keys:
            if key[2] == 0:
                write_atomically(self._pictures(key), save({"pixels": shown}))
            cell = measure(self.bench, key[0], faces, output)
            content = {"figures": cell.figures, "similarities": cell.similarities}
            write_atomically(_path(self.folder, key), json.dumps(content).encode())

    def pictures(self, table: str, method: str) -> Pixels:
        """What `method` made of the `SHOWN` faces of repetition 0, `uint8 [N,R,R,3]`."""
        key = table, method, 0
        try:
            return load_file(self._pictures(key))["pixels"]
        except (FileNotFoundError, SafetensorError):  # a crash of the machine damaged it
            self.work_out([key])
            return load_file(self._pictures(key))["pixels"]

    def groups(self) -> bytes:
        """The group scenes, of which a file is kept, too; PNG."""
        path = self.folder / "groups.png"
        if not path.is_file():
            faces = self.faces(0)
            people = faces.images[torch.from_numpy(first_of_each(faces, SCENES * PEOPLE))]
            write_atomically(path, png(draw_groups(self.bench, to_pixels(people))))
        return path.read_bytes()

    def _pictures(self, key: Key) -> Path:
        return _path(self.folder, key).with_suffix(".safetensors")


def plan(params: EvaluateParams) -> list[Key]:
    """All cells, the repetitions one after another."""
    return [
        (table, method, seed)
        for seed in range(params.seeds)
        for table, methods in tables(params.methods).items()
        for method in methods
    ]


def missing_of(params: EvaluateParams, folder: Path) -> list[Key]:
    """Those that have no file yet."""
    return [key for key in plan(params) if read_cell(folder, key) is None]


def together(keys: Iterable[Key]) -> list[list[Key]]:
    """Cells whose output is the same: a method is asked for once, whichever tables show it."""
    alike: dict[tuple[str, str, int], list[Key]] = {}
    for table, method, seed in keys:
        alike.setdefault((made_for(method, table), method, seed), []).append((table, method, seed))
    return list(alike.values())


def read_cell(folder: Path, key: Key) -> Cell | None:
    """A finished cell; None where there is none, or one that a crash of the machine damaged."""
    try:
        content = json.loads(_path(folder, key).read_bytes())
        return Cell(content["figures"], content["similarities"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def share_out(open_: Callable[[], Bench], params: EvaluateParams, folder: Path, jobs: int) -> None:
    """Work out every cell that has no file in `folder` yet, and the group scenes, in `jobs`
    processes of one thread.

    `open_` is called in each of them and can be pickled. `DeidError` where one is killed.
    """
    missing = missing_of(params, folder)
    if not missing:
        return
    done, total = len(plan(params)) - len(missing), len(plan(params))
    try:
        with (
            progress("evaluate", total, done) as bar,
            process_pool(min(jobs, len(missing)), _open, open_, params, folder) as pool,
        ):
            for drawn in [pool.submit(_draw, seed) for seed in sorted({key[2] for key in missing})]:
                drawn.result()
            scenes = pool.submit(_group)
            # The tables' last methods draw most and take longest; at the end nobody waits for one.
            asked = {pool.submit(_work_out, keys): keys for keys in reversed(together(missing))}
            for future in as_completed(asked):
                future.result()
                bar.advance(len(asked[future]))
            scenes.result()
    except BrokenProcessPool:
        raise DeidError(
            f"{folder}: an evaluating process was killed, perhaps for want of memory; run "
            "`deid evaluate --jobs 1` to resume after the finished cells"
        ) from None


def _path(folder: Path, key: Key) -> Path:
    return folder / f"{key[0]}-{key[1]}-{key[2]}.json"


_cells: Cells


def _open(open_: Callable[[], Bench], params: EvaluateParams, folder: Path) -> None:
    global _cells
    _cells = Cells.on(open_(), params, folder)


def _draw(seed: int) -> None:
    _cells.faces(seed)


def _work_out(keys: list[Key]) -> None:
    _cells.work_out(keys)


def _group() -> None:
    _cells.groups()
