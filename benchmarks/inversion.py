"""Reconstruction by one pass of M against optimization into w and w+, of generated faces.

    python -m benchmarks.inversion OUT [--params params.yaml] [--stages FOLDER]

The faces are of people nobody trained on. Optimized are StyleGAN2's projection into w (Karras et
al. 2020, without noise maps) and Image2StyleGAN's into w+ (Abdal et al. 2019): from the mean w,
down the perceptual distance and the mean squared error of pixels; and `invert`, from M's answer,
down the losses of stage one. Each draws at the smallest side that the generator has, then once at
that of the faces. OUT/inversion.json has a row for each face and method (none is computed twice),
OUT/inversion.md the means, and OUT/faces.png the faces above what the methods made of them.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from deid.anonymize.invert import invert
from deid.anonymize.refine import descend
from deid.faces.alignment import INNER
from deid.model import Deidentifier
from deid.params import load_params
from deid.pixels import quantize, to_pixels, to_tensor
from deid.storage.staging import write_atomically
from deid.worlds import load_world

STEPS = 300
RATE = 0.05
"""Adam's, in standard deviations of w."""

Rows = dict[str, dict[str, dict[str, float]]]  # method → face → figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--stages", type=Path, default=Path("deid/worlds/photo/shipped"))
    parser.add_argument("--faces", type=int, default=4)
    parser.add_argument("--steps", type=int, default=STEPS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    world = load_world(load_params(asked.params).world)
    model = Deidentifier.load(asked.stages / "stage_one", None, world)
    faces = to_tensor(world.test_faces(asked.faces, 1, 0).pixels)
    asked.out.mkdir(parents=True, exist_ok=True)
    file = asked.out / "inversion.json"
    rows: Rows = json.loads(file.read_bytes()) if file.exists() else {}
    made: list[Image.Image] = []
    for number, face in enumerate(torch.split(faces, 1)):
        for name, method in methods(asked.steps).items():
            picture = asked.out / f"{number:03d}-{name}.png"
            row = rows.setdefault(name, {})
            if str(number) not in row or not picture.exists():
                start = time.thread_time()
                output = quantize(method(model, face))
                seconds = time.thread_time() - start
                Image.fromarray(to_pixels(output)[0]).save(picture)
                row[str(number)] = measured(model, face, output) | {"seconds of a core": seconds}
                write_atomically(file, json.dumps(rows, indent=1).encode())
            made.append(Image.open(picture))
            print(number, name, {k: round(v, 3) for k, v in row[str(number)].items()}, flush=True)
    draw(faces, made, asked.out / "faces.png")
    write_atomically(asked.out / "inversion.md", table(rows).encode())


def methods(steps: int) -> Mapping[str, Callable[[Deidentifier, Tensor], Tensor]]:
    """(model, face `[1,3,R,R]`) → the face as the generator draws it, by name."""
    return {
        "M": lambda model, face: model.reconstruct(face),
        "w": lambda model, face: drawn(model, face, projected(model, face, steps, True)),
        "w+": lambda model, face: drawn(model, face, projected(model, face, steps, False)),
        "invert, w": lambda model, face: drawn(model, face, invert(model, face, steps, True)),
    }


def drawn(model: Deidentifier, face: Tensor, w: Tensor) -> Tensor:
    """G(w), `[1,3,R,R]`."""
    with torch.no_grad():
        return model.synthesize(w, face.shape[-1]).clamp(-1.0, 1.0)


def projected(model: Deidentifier, face: Tensor, steps: int, single: bool) -> Tensor:
    """w `[1,w_dim]`, or w+ where not `single`, from the mean w."""
    world, side = model.world, model.world.resolutions[0]
    small = F.interpolate(face, size=(side, side), mode="area")

    def loss_of(w: Tensor) -> Tensor:
        output = model.synthesize(model.unstandardize(w), side)
        return world.perceptual.distance(output, small).mean() + F.mse_loss(output, small)

    shape = (1,) if single else (1, world.generator.num_ws)
    start = model.standardize(world.generator.w_mean.expand(*shape, -1))
    return model.unstandardize(descend(start, loss_of, steps, RATE, 0.0))


@torch.no_grad()
def measured(model: Deidentifier, face: Tensor, output: Tensor) -> dict[str, float]:
    """How far `output` is from `face`; by networks with no part in training, but for landmarks."""
    world = model.world
    points, moved = (world.landmarks(image)[0] for image in (face, output))
    eyes = (points[36] - points[45]).norm()
    likeness = {
        f"likeness, {name}": float((recognizer(face) * recognizer(output)).sum())
        for name, recognizer in world.held_out.items()
    }
    return {
        **likeness,
        world.metric_features.lpips_label: float(world.metric_features.distance(face, output)),
        "inner landmarks off": float(((points - moved)[INNER].norm(dim=1) / eyes).mean()),
    }


def table(rows: Rows) -> str:
    """Means over faces, a line each method."""
    figures = list(next(iter(next(iter(rows.values())).values())))
    lines = [f"| | {' | '.join(figures)} |", "|---" * (len(figures) + 1) + "|"]
    for method, faces in rows.items():
        means = [np.mean([row[figure] for row in faces.values()]) for figure in figures]
        lines.append(f"| {method} ({len(faces)}) | {' | '.join(f'{m:.3f}' for m in means)} |")
    return "\n".join(lines) + "\n"


def draw(faces: Tensor, made: list[Image.Image], file: Path) -> None:
    """A column a face."""
    pictures = np.stack([np.asarray(picture) for picture in made])
    columns = pictures.reshape(len(faces), -1, *pictures.shape[1:])
    sheet = np.concatenate([to_pixels(faces)[:, None], columns], 1)
    Image.fromarray(np.concatenate([np.concatenate(list(c)) for c in sheet], 1)).save(file)


if __name__ == "__main__":
    main()
