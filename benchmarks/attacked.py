"""Every attacker of `deid attack` on every method, before any verification.

    python -m benchmarks.attacked PICTURES OUT [--count 60] [--method swap blur …]
        [--recognizer SPEC …] [--detector SPEC …] [--outputs NAME=FOLDER …] [--fine-tune 40]
    python -m benchmarks.attacked mini OUT --count 60 --views 3 --stages FOLDER
    python -m benchmarks.attacked photo OUT --count 60 --views 2

PICTURES is a folder of aligned portraits, each of another person; or `mini`, whose rendered people
have several views each; or `photo`, whose generator draws people again in other colors and light.
What draws a face is pasted brow to chin as `deid run` does it (in `mini`,
whose pictures are aligned faces, not), all else is as it is made; without the gate, which would
pixelate most of what noise attacks make. Swaps are made a second time with other seeds, for A4.
`--outputs` names a folder of another tool's outputs with the names of `OUT/originals`. OUT, outside
of the repository, gets the pictures and a report for each method; what is there is not made again.
Prints the rows of docs/threats.md.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch

from benchmarks.photographs import STATES, each, loaded, portraits
from deid.anonymize import Anonymizer, ModelPaths, build
from deid.attack.run import METRICS, examine
from deid.attack.settings import AttackSettings
from deid.gate.fallback import GENERATIVE, base
from deid.params import AnonymizeParams, WorldParams
from deid.pixels import Pixels, quantize, to_pixels, to_tensor
from deid.pool import keep_memory
from deid.storage.staging import write_atomically
from deid.worlds import load_world
from deid.worlds.world import World

METHODS = (
    *("swap", "adversarial", "blur", "pixelate", "mask", "fgsm-0.03", "fgsm-0.1", "pgd-0.03"),
    *("pgd-0.1", "ksame-average", "ksame-furthest"),
)
SEED = 2_000_000
"""Of drawn people, whom nothing else uses."""
AGAIN = 1_000_000
"""Added to the seeds of those made again."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures")
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--views", type=int, default=3, help="of each person of mini")
    parser.add_argument("--method", dest="methods", nargs="*", default=METHODS)
    parser.add_argument("--recognizer", action="append", default=[])
    parser.add_argument("--detector", action="append", default=[])
    parser.add_argument("--outputs", action="append", default=[])
    parser.add_argument("--fine-tune", type=int, default=0, help="steps of A2+")
    parser.add_argument("--stages", type=Path, help="of mini: the folder of both stages")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    mini = args.pictures == "mini"
    world, build_method = _mini(args.stages) if mini else loaded()
    views = mini or args.pictures == "photo"
    if views:
        faces = world.test_faces(args.count, args.views, 0 if mini else SEED)
        pixels, names = faces.pixels, [f"{p:03}/{i:04}" for i, p in enumerate(faces.identities)]
    else:
        pixels = to_pixels(portraits(Path(args.pictures), args.count))
        names = [f"{i:04}" for i in range(len(pixels))]
    _keep(args.out / "originals", names, pixels)
    folders = {name: Path(folder) for name, _, folder in (o.partition("=") for o in args.outputs)}
    for method in args.methods:
        folders[method] = args.out / method
        _make(world, build_method, method, args.out, names, pixels, pasted=not mini)
    for name, outputs in folders.items():
        again = args.out / f"{name}-again"
        asked = AttackSettings(
            people="folder" if views else "file",
            again=str(again) if again.is_dir() else None,
            recognizers=tuple(args.recognizer),
            detectors=tuple(args.detector),
            fine_tune=args.fine_tune,
            called=("held-out people", f"outputs of {name}"),
        )
        page = args.out / "pages" / name
        if not (page / METRICS).is_file():
            examine(world, str(args.out / "originals"), str(outputs), page, asked)
        print(row(name, json.loads((page / METRICS).read_bytes())), flush=True)


def _mini(stages: Path) -> tuple[World, Callable[[str], Anonymizer]]:
    world, paths = load_world(WorldParams()), ModelPaths(stages / "stage_one", stages / "stage_two")
    return world, lambda method: build(method, world, paths, AnonymizeParams())


def _keep(folder: Path, names: Sequence[str], pictures: Pixels) -> None:
    for name, picture in zip(names, pictures, strict=True):
        _, coded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        write_atomically(folder / f"{name}.png", coded.tobytes())


def _make(
    world: World,
    build_method: Callable[[str], Anonymizer],
    method: str,
    out: Path,
    names: Sequence[str],
    pixels: Pixels,
    pasted: bool,
) -> None:
    faces, generative = to_tensor(pixels), base(method) in GENERATIVE
    anonymizer = None
    for suffix, first in (("", 0), ("-again", AGAIN)):
        folder = out / f"{method}{suffix}"
        if folder.is_dir() or (suffix and method != "swap"):
            continue
        anonymizer = anonymizer or build_method(method)
        made = torch.cat(
            [anonymizer(faces[i : i + 1], [first + i]).detach() for i in range(len(faces))]
        )
        if generative and pasted:
            made, *_ = STATES["pasted"](world, faces, made, each(world.landmarks, faces))
        _keep(folder, names, to_pixels(quantize(made)))


def row(name: str, report: Any) -> str:
    """In percent: rank-1, TAR and TAR calibrated of each attacker's best recognizer; where the
    identity is, to who has the very picture and to who has others; faces found by the detector that
    finds fewest."""
    cells = [f"`{name}`"]
    for attacker in ("A0", "A0b", "A1", "A2", "A2+", "A3", "A3+", "A4"):
        found = report["attacks"].get(attacker)
        figures = ("rank1", "tar", "tar_calibrated")
        cells.append(", ".join(_most(found, figure) for figure in figures) if found else "–")
    for part in ("inside", "outside"):
        found = report["where"][part]
        cells += [_most(found[name], "rank1") for name in ("A0", "A0b") if name in found]
    seen = [one["value"] for key, one in report["utility"].items() if key.startswith("detected")]
    return f"| {' | '.join([*cells, f'{min(seen):.2f}'])} |"


def _most(found: Any, figure: str) -> str:
    return f"{100 * max(one[figure]['value'] for one in found.values()):.1f}"


if __name__ == "__main__":
    main()
