"""What one picture costs from the command line: `python -m benchmarks.startup [TREE …]`.

Each tree, a checkout (this one, if none is given), runs `deid run` on one sample picture, by turns
with the others and with a bare `import torch`, so that a machine's other load falls on all alike.
Printed are medians: seconds of wall, seconds of processor, and what is above `import torch`. Only
ratios within one run tell anything; no test is timed.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
SAMPLE = HERE / "data/samples/portrait.png"


def spent(command: Sequence[str], tree: Path, cache: str) -> tuple[float, float]:
    """Seconds of wall and of processor that a command takes, its modules from `tree`."""
    # Byte code is kept, as an installed package's is, whatever this process was told.
    kept = {"PYTHONPATH": str(tree), "PYTHONPYCACHEPREFIX": cache}
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | kept
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=tree, env=environment, check=True, capture_output=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu


def main() -> None:
    """Print a line for each tree."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trees", nargs="*", type=Path, default=[HERE])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--picture", type=Path, default=SAMPLE)
    parser.add_argument("--options", default="--world mini --method blur", help="of `deid run`")
    args = parser.parse_args()
    times: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(args.runs + 1):
            commands = {"import torch": (HERE, [sys.executable, "-c", "import torch"])}
            for tree in args.trees:
                out = f"{folder}/{turn}-{len(commands)}"
                asked = [*args.options.split(), str(args.picture.resolve()), out]
                call = [sys.executable, "-m", "deid.cli", "run", *asked]
                commands[str(tree)] = (tree.resolve(), call)
            for name, (tree, command) in commands.items():
                taken = spent(command, tree, f"{folder}/cache")
                if turn:  # the first warms disk and byte code
                    times.setdefault(name, []).append(taken)
    torch_wall, torch_cpu = _medians(times["import torch"])
    for name, taken_by in times.items():
        wall, cpu = _medians(taken_by)
        above = f"; above torch {wall - torch_wall:5.2f} and {cpu - torch_cpu:5.2f}"
        print(f"{wall:6.2f} s of wall, {cpu:6.2f} s of processor{above}  {name}")


def _medians(times: Sequence[tuple[float, float]]) -> tuple[float, float]:
    walls, cpus = zip(*times, strict=True)
    return statistics.median(walls), statistics.median(cpus)


if __name__ == "__main__":
    main()
