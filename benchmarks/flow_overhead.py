"""What orchestration costs, what a second process brings: `python benchmarks/flow_overhead.py`.

Pictures are masked, by turns: by the engine of `deid run` alone, by the flow (its tasks, states and
artifact reported to the Prefect server of PREFECT_API_URL, else to one that it starts on this
machine, by a flow of one picture before), and by the engine with two processes. Printed are, within
this one run, ratios of wall time and of processor time of a turn, and the load of the machine.
To import libraries, to start the server and to load networks is in none of them.
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
import psutil  # type: ignore[import-untyped]
from PIL import Image

from deid.batch import project
from deid.batch.workers import ProcessPool

Spent = tuple[float, float]  # seconds by the clock and of processors


class Warm(ProcessPool):
    """All processes are ready before the work, and how long that took is known."""

    started = (0.0, 0.0)  # of the last one

    def __enter__(self) -> Self:
        before = spent()
        super().__enter__()
        while len(self._workers) < self._jobs:
            self._start().greeting()
        Warm.started = since(before)
        return self


def main() -> None:
    """Print seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    project.ProcessPool = Warm  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.setdefault("PREFECT_HOME", f"{scratch}/prefect")
        source, one = Path(scratch, "in"), Path(scratch, "one")
        make_pictures(source, args.files, args.side)
        make_pictures(one, 1, args.side)
        ways()["flow"](str(one), f"{scratch}/warm")
        turns = []
        for turn in range(args.turns):
            times = {
                name: measured(run, source, Path(scratch, f"{name}-{turn}"))
                for name, run in ways().items()
            }
            turns.append(times)
            told = ", ".join(f"{n} {wall:.1f} s ({cpu:.1f})" for n, (wall, cpu) in times.items())
            print(f"{told}; load {os.getloadavg()[0]:.1f}", flush=True)
    for which, what in enumerate(("clock", "processor")):
        flow = [times["flow"][which] / times["engine"][which] for times in turns]
        print(f"flow / engine, {what}: {statistics.median(flow):.3f} of {sorted(flow)}")
    two = [times["engine"][0] / times["two"][0] for times in turns]
    print(f"one process / two, clock: {statistics.median(two):.2f} of {sorted(two)}")


def measured(run: Callable[[str, str], object], source: Path, out: Path) -> Spent:
    """Of a run, without the start of its processes."""
    before = spent()
    run(str(source), str(out))
    wall, cpu = since(before)
    return wall - Warm.started[0], cpu - Warm.started[1]


def spent() -> Spent:
    """By this process and its children, those that ended and those at work."""
    used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    ended = sum(one.ru_utime + one.ru_stime for one in used)
    working = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return time.monotonic(), ended + sum(one.user + one.system for one in working)


def since(before: Spent) -> Spent:
    now = spent()
    return now[0] - before[0], now[1] - before[1]


def ways() -> dict[str, Callable[[str, str], object]]:
    import flows  # noqa: F401  (its settings, before Prefect reads them)
    from deid.batch.settings import BatchSettings, RunSettings
    from flows.deidentify import deidentify

    settings = RunSettings(method="mask", rendered=True, allow_no_face=True)
    bundle = project.bundle_at(Path.cwd(), "mini")

    def engine(source: str, out: str, jobs: int = 1) -> object:
        return project.run_project(source, out, settings, BatchSettings(jobs=jobs), bundle)

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
