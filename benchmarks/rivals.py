"""The rivals' rows of Table 1, 2 or 3 alone, which need no trained stage, and sheets of pictures.

    python -m benchmarks.rivals mini OUT --people 24
    python -m benchmarks.rivals mini OUT --people 100 --table table2
    python -m benchmarks.rivals photo OUT --people 8 --methods fawkes tipim

Writes OUT/rivals.json after each method (a method that is there is not run again), OUT/METHOD.png
with eight faces above what became of them (in Table 2 beneath their donors), and
OUT/faces/METHOD/*.png for `deid study build`; all of it in OUT/table2, OUT/table3 for those.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from deid.anonymize import REBUILDING_RIVALS, RIVALS, SWAPPING_RIVALS, ModelPaths
from deid.evaluate.cells import Bench, measure, pairing, produce
from deid.evaluate.columns import columns
from deid.evaluate.faces import held_out_faces
from deid.params import AnonymizeParams, EvaluateParams, WorldParams
from deid.pixels import to_pixels
from deid.storage.staging import write_atomically
from deid.worlds import load_world

WORLDS = {
    "mini": WorldParams(),
    "photo": WorldParams(name="photo", weights=Path("data/photo/weights.json"), truncation=0.7),
}
METHODS = {
    "table1": ("original", "fgsm-0.1", "pgd-0.1", "tidim-0.1", "blur", *RIVALS),
    "table2": ("unchanged", *SWAPPING_RIVALS),
    "table3": ("unrelated", *REBUILDING_RIVALS),
}
SHOWN = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("world", choices=WORLDS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--people", type=int, default=24)
    parser.add_argument("--table", choices=METHODS, default="table1")
    parser.add_argument("--methods", nargs="+")
    asked = parser.parse_args()
    table = asked.table
    out = asked.out if table == "table1" else asked.out / table
    torch.set_num_threads(1)
    world = load_world(WORLDS[asked.world])
    faces = held_out_faces(world, EvaluateParams(identities=asked.people, views=1, batch_size=4), 0)
    bench = Bench(world, ModelPaths(Path("none")), AnonymizeParams(), 4)
    file = out / "rivals.json"
    rows = json.loads(file.read_bytes()) if file.exists() else {}
    originals = to_pixels(faces.images)
    above = [originals[pairing(faces)], originals] if table == "table2" else [originals]
    for method in asked.methods or METHODS[table]:
        if method not in rows:
            start, worked = time.perf_counter(), time.process_time()
            output = produce(bench, method, faces, table)
            seconds = time.perf_counter() - start, time.process_time() - worked
            made = to_pixels(output.images)
            rows[method] = measure(bench, table, faces, output).figures
            rows[method]["seconds_of_a_core"] = seconds[1] / len(faces)
            write_atomically(file, json.dumps(rows, indent=1).encode())
            sheet = [np.concatenate(list(pictures[:SHOWN]), 1) for pictures in (*above, made)]
            Image.fromarray(np.concatenate(sheet)).save(out / f"{method}.png")
            folder = out / "faces" / method
            folder.mkdir(parents=True, exist_ok=True)
            for number, pixels in enumerate(made):
                Image.fromarray(pixels).save(folder / f"{number:03d}.png")
        keys = [c.key for c in columns(table, world) if c.key in rows[method]]
        shown = " ".join(f"{key} {rows[method][key]:.3f}" for key in [*keys, "seconds_of_a_core"])
        print(f"{method}: {shown}", flush=True)


if __name__ == "__main__":
    main()
