"""How long one face takes from decoded pixels to a verified picture: all checks, all tries.

    python -m benchmarks.seconds PICTURES [--side 256] [--count 32] [--threads 1 2]
        [--method swap] [--detect-size N]

PICTURES is a folder of portraits, one face each, shrunk by area to `--side` (never enlarged). One
process, warm: two pictures are made before the clock starts. The pictures take turns over the
numbers of threads, so that what else the machine does falls on all. Median and mean by the clock,
with 95 % intervals over people, and the share that needed more than one try. `--detect-size` is
that of `deid run`, where one pass at the side is what somebody in a hurry asks for.
"""

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.photographs import interval
from deid.api import deidentify
from deid.errors import DeidError
from deid.pixels import Pixels
from deid.pool import keep_memory

WARM = 2


def main() -> None:
    """Print a line for each number of threads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--method", default="swap")
    parser.add_argument("--detect-size", type=int)
    args = parser.parse_args()
    keep_memory()
    files = sorted(f for f in args.pictures.iterdir() if f.suffix in (".jpg", ".png"))
    shown = [small(file, args.side) for file in files[: WARM + args.count]]
    taken: dict[int, list[float]] = {threads: [] for threads in args.threads}
    again = refused = 0
    for number, picture in enumerate(shown):
        for threads in args.threads:
            torch.set_num_threads(threads)
            start = time.perf_counter()
            tries = made(picture, args.method, args.detect_size)
            if number >= WARM:
                taken[threads].append(time.perf_counter() - start)
        if number >= WARM:
            again += tries > 1
            refused += tries == 0
    asked = f"{len(shown) - WARM} faces of {args.side} px, {args.method}"
    print(f"{asked}: {again} not at the first try, {refused} refused or without a face")
    for threads, seconds in taken.items():
        values = np.array(seconds)
        for name, statistic in (("median", np.median), ("mean", np.mean)):
            middle, low, high = interval(values, statistic)
            print(f"threads {threads}, {name}: {middle:.2f} s ({low:.2f} to {high:.2f})")


def small(file: Path, side: int) -> Pixels:
    """A picture `uint8 [H,W,3]` whose longer side is `side` at most."""
    pixels = np.asarray(cv2.imread(str(file))[..., ::-1], np.uint8)
    scale = min(1.0, side / max(pixels.shape[:2]))
    size = round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)
    return np.ascontiguousarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def made(picture: Pixels, method: str, detect_size: int | None) -> int:
    """How many tries the picture took; 0 where it was refused."""
    try:
        return deidentify(picture, method, detect_size=detect_size).level
    except DeidError:
        return 0


if __name__ == "__main__":
    main()
