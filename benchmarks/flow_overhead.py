"""What orchestration costs, what a second process brings: `python benchmarks/flow_overhead.py`.

2,000 pictures are masked, by turns: by the engine of `deid run` alone, by the flow (its tasks,
states and artifact reported to the Prefect server that it starts on this machine, by a flow of one
picture before), and by the engine with two processes. Ratios of wall time within this one run are
printed; how long a process takes to import the libraries, and the server to start, is not in them.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def main() -> None:
    """Print seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--turns", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["PREFECT_HOME"] = f"{scratch}/prefect"
        source = Path(scratch, "in")
        make_pictures(source, args.files, args.side)
        one = Path(scratch, "one")
        make_pictures(one, 1, args.side)
        ways()["flow"](str(one), f"{scratch}/warm")
        times: dict[str, list[float]] = {}
        for turn in range(args.turns):
            for name, run in ways().items():
                out = Path(scratch, f"{name}-{turn}")
                began = time.monotonic()
                run(str(source), str(out))
                times.setdefault(name, []).append(time.monotonic() - began)
                print(f"{name}: {times[name][-1]:.1f} s", flush=True)
    best = {name: min(seconds) for name, seconds in times.items()}
    print(f"flow / engine: {best['flow'] / best['engine']:.3f} (best of {args.turns})")
    print(f"one process / two: {best['engine'] / best['two']:.2f}")


def ways() -> dict[str, Callable[[str, str], object]]:
    import flows  # noqa: F401  (its settings, before Prefect reads them)
    from deid.batch.project import bundle_at, run_project
    from deid.batch.settings import BatchSettings, RunSettings
    from flows.deidentify import deidentify

    root = Path.cwd()
    settings = RunSettings(method="mask", rendered=True, allow_no_face=True)
    bundle = bundle_at(root, "mini")

    def engine(source: str, out: str, jobs: int = 1) -> object:
        return run_project(source, out, settings, BatchSettings(jobs=jobs), bundle)

    def flow(source: str, out: str) -> object:
        shown = {"method": "mask", "rendered": True, "allow_no_face": True}
        return deidentify(source, out, world="mini", **shown)

    return {"engine": engine, "flow": flow, "two": lambda s, o: engine(s, o, jobs=2)}


def make_pictures(folder: Path, count: int, side: int) -> None:
    folder.mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05d}.jpg")


if __name__ == "__main__":
    main()
