"""The cells of an evaluation: which there are, their files, and processes that share them out.

A cell is one method on one repetition's faces. Each finished one is a small JSON file, so a killed
run repeats few and ends with the same figures. Cells know nothing of each other.
"""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from deid.errors import DeidError
from deid.evaluate.cells import Bench, Cell, measure, produce, tables
from deid.evaluate.faces import HeldOut, held_out_faces
from deid.params import EvaluateParams
from deid.pool import process_pool
from deid.progress import progress
from deid.storage.staging import write_atomically

Key = tuple[str, str, int]  # table, method, repetition


@dataclass(frozen=True)
class Cells:
    """Works out the cells of `params` on a bench, each into its file in `folder`."""

    bench: Bench
    params: EvaluateParams
    folder: Path
    faces: Callable[[int], HeldOut]  # of a repetition; encoded once, and only where needed

    @classmethod
    def on(cls, bench: Bench, params: EvaluateParams, folder: Path) -> "Cells":
        """With the held-out faces of the bench's world."""
        faces = cache(lambda seed: held_out_faces(bench.world, params, seed))
        return cls(bench, params, folder, faces)

    def all(self) -> Mapping[Key, Cell]:
        """Every cell; what has no file yet is worked out here, one after another."""
        wanted = plan(self.params)
        cells = {key: cell for key in wanted if (cell := read_cell(self.folder, key)) is not None}
        with progress("evaluate", len(wanted), len(cells)) as bar:
            for key in wanted:
                if key not in cells:
                    bar.note(f"{key[1]}, repetition {key[2] + 1} of {self.params.seeds}")
                    cells[key] = self.work_out(key)
                    bar.advance()
        return {key: cells[key] for key in wanted}

    def work_out(self, key: Key) -> Cell:
        """One cell, also written to its file."""
        table, method, seed = key
        output = produce(self.bench, method, self.faces(seed), table)
        cell = measure(self.bench, table, self.faces(seed), output)
        content = {"figures": cell.figures, "similarities": cell.similarities}
        write_atomically(_path(self.folder, key), json.dumps(content).encode())
        return cell


def plan(params: EvaluateParams) -> list[Key]:
    """All cells, the repetitions one after another."""
    return [
        (table, method, seed)
        for seed in range(params.seeds)
        for table, methods in tables(params.methods).items()
        for method in methods
    ]


def read_cell(folder: Path, key: Key) -> Cell | None:
    """A finished cell; None where there is none, or one that a crash of the machine damaged."""
    try:
        content = json.loads(_path(folder, key).read_bytes())
        return Cell(content["figures"], content["similarities"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def share_out(open_: Callable[[], Bench], params: EvaluateParams, folder: Path, jobs: int) -> None:
    """Work out every cell that has no file in `folder` yet, in `jobs` processes of one thread.

    `open_` is called in each of them and can be pickled. `DeidError` where one is killed.
    """
    wanted = plan(params)
    missing = [key for key in wanted if read_cell(folder, key) is None]
    if not missing:
        return
    try:
        with (
            progress("evaluate", len(wanted), len(wanted) - len(missing)) as bar,
            process_pool(min(jobs, len(missing)), _open, open_, params, folder) as pool,
        ):
            for future in as_completed([pool.submit(_work_out, key) for key in missing]):
                future.result()
                bar.advance()
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


def _work_out(key: Key) -> None:
    _cells.work_out(key)
