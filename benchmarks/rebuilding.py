"""Table 3 of the photo world alone, with inversion as its ceiling, from the shipped stages.

    python -m benchmarks.rebuilding OUT [--people 20]

Inversion takes a quarter of a minute of a core for each face, so `make repro` leaves it out. OUT, a
folder outside of the repository, keeps each finished row: ended early, the same command goes on.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from benchmarks.photographs import interval
from deid.anonymize import ModelPaths
from deid.batch.bundle import shipped_bundle
from deid.evaluate.cells import REBUILDING, Bench
from deid.evaluate.spread import Cells, read_cell
from deid.params import EvaluateParams
from deid.worlds import load_world

ROWS = ("unrelated", *REBUILDING)


def main() -> None:
    """Print a line for each row: its figures, and the likeness to the original with 95 %."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--people", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    shipped = shipped_bundle("photo")
    if shipped is None:
        raise SystemExit("no stage ships with this version")
    params = EvaluateParams(identities=args.people, views=1, seeds=1, batch_size=4)
    models = ModelPaths(shipped.stage_one, shipped.stage_two)
    bench = Bench(load_world(shipped.world), models, shipped.anonymize, params.batch_size)
    folder = args.out / str(args.people)
    cells = Cells.on(bench, params, folder)
    for method in ROWS:
        key = ("table3", method, 0)
        cell = read_cell(folder, key) or cells.work_out(key)
        shown = {name: round(value, 4) for name, value in cell.figures.items()}
        likeness = [round(value, 3) for value in interval(np.array(cell.similarities), np.mean)]
        print(method, "likeness", *likeness, shown, flush=True)


if __name__ == "__main__":
    main()
