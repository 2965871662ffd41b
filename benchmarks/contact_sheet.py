"""Sheets to look at: portraits and composed group scenes, each original above its output.

    python -m benchmarks.contact_sheet PICTURES OUT [--count 40] [--groups 5] [--world photo]

PICTURES is a folder of aligned portraits. They are de-identified as `deid run` does it, in a single
detection pass unless `--detect-size 0`, and OUT (outside of the repository) gets `portraits-N.png`,
`group-N.png`, and the fallback level at which each face ended, on standard output. A group's heads
have 40 to 300 px, some are turned, half hidden or cut by the frame.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from deid.api import deidentify
from deid.errors import DeidError
from deid.pixels import Pixels
from tests.scenes import Trials, compose, photographs

ROW, ROWS, SIDE = 8, 2, 256
SIZES, TRIALS = (40.0, 300.0), Trials(turned=0.15, hidden=0.15, cut=0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--groups", type=int, default=5)
    parser.add_argument("--world", default="photo")
    parser.add_argument("--region", choices=("face", "head"))
    parser.add_argument("--detect-size", type=int, default=640)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    levels: Counter[str] = Counter()

    def run(picture: Pixels) -> Pixels:
        size = args.detect_size or None
        try:
            result = deidentify(picture, world=args.world, region=args.region, detect_size=size)
        except DeidError as error:
            levels["none"] += 1
            print(error)
            return np.full_like(picture, 255)
        levels.update(face.method for face in result.faces)
        return result.pixels

    heads = photographs(args.pictures, args.first + args.count)
    portraits = [head.rgb for head in heads[args.first :]]
    for page, start in enumerate(range(0, len(portraits), ROW * ROWS)):
        some = portraits[start : start + ROW * ROWS]
        outputs = [run(portrait) for portrait in some]
        save(args.out / f"portraits-{args.first}-{page}.png", rows(some, outputs))
    for number in range(args.groups):
        scene = compose(number, heads, 3 + 2 * number, (640, 960), TRIALS, SIZES).pixels
        save(args.out / f"group-{number}.png", np.concatenate([scene, run(scene)]))
    print(dict(levels))


def rows(originals: Sequence[Pixels], outputs: Sequence[Pixels]) -> Pixels:
    """A row of originals above a row of outputs, `ROW` across, and so on."""
    lines = []
    for start in range(0, len(originals), ROW):
        for part in (originals[start : start + ROW], outputs[start : start + ROW]):
            cells = [cv2.resize(one, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for one in part]
            blank = [np.full_like(cells[0], 255)] * (ROW - len(cells))
            lines.append(np.concatenate([*cells, *blank], axis=1))
    return np.concatenate(lines)


def save(file: Path, picture: Pixels) -> None:
    cv2.imwrite(str(file), picture[..., ::-1])


if __name__ == "__main__":
    main()
