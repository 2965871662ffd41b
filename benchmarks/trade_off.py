"""What privacy costs: noise over its ε, `adversarial` and `swap` over their strength, in one plot.

    python -m benchmarks.trade_off PICTURES OUT [--count 60] [--judge FILE …]

PICTURES is a folder of aligned portraits, each of another person. Outputs are judged before any
verification: what draws a face is pasted brow to chin as `deid run` does it, noise covers the whole
picture. Judges are the photo world's held-out recognizers (dlib's selects champions) and the files
of `--judge`; none had part in training or was attacked. The worst counts, at the lower of two
thresholds that one in a thousand comparisons of different people exceeds: of clear pictures, and of
outputs with clear ones. The distance is that of the world's metric features (face-api's).

OUT, outside of the repository, gets `trade_off-COUNT-….json`, to which each finished point is added
(what is there is not made again), and the plot beside it.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.photographs import RATE, STATES, each, interval, loaded, portraits, recognizer
from deid.anonymize import Anonymizer
from deid.gate.fallback import GENERATIVE, base
from deid.pool import keep_memory
from deid.storage.staging import write_atomically
from deid.worlds.world import FaceEmbedder, World

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
EPSILONS = ("0.01", "0.03", "0.06", "0.1")
NOISE = {"fgsm": "FGSM", "pgd": "PGD", "mifgsm": "MI-FGSM", "tidim": "TI-DIM"}
DIALS = {"adversarial": "adversarial", "swap": "swap"}
COLORS = {
    "fgsm": "#0072B2",
    "pgd": "#009E73",
    "mifgsm": "#1B2A8F",
    "tidim": "#6A3D9A",
    "adversarial": "#D55E00",
    "swap": "#E69F00",
}
SHOWN = {
    "tar": "matched at a false accept rate of 0.1 %",
    "rank1": "found first of all people",
}
Judged = Mapping[str, FaceEmbedder]


def main() -> None:
    """Work out every point that is not there yet, print all, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--judge", type=Path, action="append", default=[])
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    args.out.mkdir(parents=True, exist_ok=True)
    names = [*(one.stem for one in args.judge)]
    file = args.out / f"{'-'.join(['trade_off', str(args.count), *names])}.json"
    points: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    world, build = loaded()
    judges = dict(world.held_out) | {one.stem: recognizer(one) for one in args.judge}
    faces = portraits(args.pictures, args.count)
    clear = {name: each(judge, faces) for name, judge in judges.items()}
    for name, anonymizer in methods(build):
        if name not in points:
            outputs = made(world, anonymizer, faces)
            points[name] = figures(world, judges, clear, faces, outputs)
            write_atomically(file, (json.dumps(points, indent=2) + "\n").encode())
        print(name, {key: np.round(value, 3).tolist() for key, value in points[name].items()})
    draw(points, file.with_suffix(".png"))


def methods(build: Callable[..., Anonymizer]) -> list[tuple[str, Anonymizer]]:
    """By name, `fgsm-0.03` or `swap 0.5`."""
    noise = [f"{method}-{epsilon}" for method in NOISE for epsilon in EPSILONS]
    dialed = [
        (f"{method} {strength:g}", build(method, strength=strength))
        for method in DIALS
        for strength in STRENGTHS
    ]
    return [(name, build(name)) for name in noise] + dialed


def made(world: World, anonymizer: Anonymizer, faces: Tensor) -> Tensor:
    """The outputs `[N,3,R,R]`, pasted where a face is drawn."""
    outputs = torch.cat([anonymizer(faces[i : i + 1], [i]).detach() for i in range(len(faces))])
    if base(anonymizer.name) not in GENERATIVE:
        return outputs
    return STATES["pasted"](world, faces, outputs, each(world.landmarks, faces))[0]


def figures(
    world: World, judges: Judged, clear: Mapping[str, NDArray[Any]], faces: Tensor, outputs: Tensor
) -> dict[str, Any]:
    """Of the worst judge, with intervals over people: share matched, and rank-1; the distance."""
    people, found = np.arange(len(faces)), []
    for name, judge in judges.items():
        scores = each(judge, outputs) @ clear[name].T
        apart = ~np.eye(len(people), dtype=bool)
        thresholds = [
            float(np.quantile(pairs[apart], 1 - RATE))
            for pairs in (clear[name] @ clear[name].T, scores)
        ]
        found.append((np.diag(scores) > min(thresholds), scores.argmax(1) == people))
    with torch.no_grad():
        pairs = zip(faces.split(8), outputs.split(8), strict=True)
        apart_by = torch.cat([world.metric_features.distance(*pair) for pair in pairs])
    worst = [max((one[i].astype(float) for one in found), key=np.mean) for i in (0, 1)]
    return {
        "tar": interval(worst[0], np.mean),
        "rank1": interval(worst[1], np.mean),
        "distance": interval(apart_by.double().numpy(), np.mean),
    }


def draw(points: Mapping[str, Any], file: Path) -> None:
    """A line a method, through its points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    for axes, (key, label) in zip(figure.subplots(1, 2), SHOWN.items(), strict=True):
        for method, title in (NOISE | DIALS).items():
            line = {n: p for n, p in points.items() if n.replace(" ", "-").startswith(f"{method}-")}
            x, y = ([one[axis][0] for one in line.values()] for axis in ("distance", key))
            dials = [name.removeprefix(method)[1:] for name in line]
            reach = f"{title}, {'ε' if method in NOISE else 'strength'} {dials[0]} to {dials[-1]}"
            axes.plot(x, y, "o-", color=COLORS[method], label=reach, markersize=4)
        axes.set_xlabel("perceptual distance to the original (face-api features)")
        axes.set_ylabel(f"{label}, worst judge")
        axes.set_ylim(-0.02, 1.04)
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    main()
