"""Whether memory stays flat over a long batch: `python benchmarks/memory_flat.py`.

5,000 small pictures are masked, from the project's root; the resident
memory of the command and of its worker is printed as it goes, and how much it grew after the first
tenth.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
from PIL import Image

MIB = 2**20


def main() -> None:
    """Print memory over time, then the growth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--side", type=int, default=64)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        source, out = Path(scratch, "in"), Path(scratch, "out")
        make_pictures(source, args.files, args.side)
        command = [sys.executable, "-m", "deid.cli", "run", str(source), str(out)]
        options = ["--world", "mini", "--method", "mask", "--allow-no-face", "--rendered"]
        with subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL) as batch:
            rows = watch(psutil.Process(batch.pid), batch, out, args.files)
    settled = [row for row in rows if row[0] >= args.files // 10] or rows
    for name, column in (("command", 1), ("worker", 2)):
        first, last = settled[0][column], settled[-1][column]
        print(f"{name}: {first:.1f} → {last:.1f} MiB, grew {last - first:+.1f} MiB")


def make_pictures(folder: Path, count: int, side: int) -> None:
    for number in range(count):
        place = folder / f"{number // 500:02d}" / f"{number:05d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(number)
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(place)


def watch(
    command: psutil.Process, batch: "subprocess.Popen[bytes]", out: Path, files: int
) -> list[tuple[int, float, float]]:
    """Outputs so far, memory of the command and of its largest child, in MiB."""
    rows: list[tuple[int, float, float]] = []
    while batch.poll() is None:
        time.sleep(0.5)
        done = sum(1 for _ in out.glob("*/*.png")) if out.exists() else 0
        if not 0 < done < files or (rows and done < rows[-1][0] + files // 20):
            continue
        try:
            children = [child.memory_info().rss for child in command.children(recursive=True)]
            rows.append((done, command.memory_info().rss / MIB, max(children, default=0) / MIB))
        except psutil.Error:
            break
        print("{:6d} files: command {:.1f} MiB, worker {:.1f} MiB".format(*rows[-1]), flush=True)
    return rows


if __name__ == "__main__":
    main()
