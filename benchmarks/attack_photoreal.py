"""FGSM and PGD against a trained recognizer on photographs, judged by others.

    python benchmarks/attack_photoreal.py PICTURES RECOGNIZER [--judge FILE ...]

RECOGNIZER and the judges are public checkpoints that `deid.weights.importers` knows; the mini
world's held-out recognizers judge as well, though they have only seen rendered people. PICTURES is
a folder of FFHQ-aligned faces, each of another person. Every similarity is a mean cosine with the
original; a judge that cannot tell people apart shows it in the last two rows.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from deid.anonymize.gradient import FGSM, PGD
from deid.params import WorldParams
from deid.pixels import quantize, to_pixels, to_tensor
from deid.weights.importers import build, read_checkpoint
from deid.worlds import load_world
from deid.worlds.public.conventions import CONVENTIONS
from deid.worlds.public.faces import embedder
from deid.worlds.world import FaceEmbedder

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Print one row an attack, one column a recognizer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("recognizer", type=Path, help="attacked with its gradients")
    parser.add_argument("--judge", type=Path, action="append", default=[], help="not attacked")
    parser.add_argument("--count", type=int, default=40, help="so many faces")
    parser.add_argument("--steps", type=int, default=10, help="of PGD")
    parser.add_argument("--batch", type=int, default=10)
    args = parser.parse_args()
    attacked = recognizer(args.recognizer)
    world = load_world(WorldParams(weights=ROOT / "data/mini/weights"))
    judges: dict[str, FaceEmbedder] = {"attacked": attacked}
    judges |= {file.stem: recognizer(file) for file in args.judge}
    judges |= {f"mini {name}": net for name, net in world.held_out.items()}
    faces = pictures(args.pictures, args.count)
    print(f"{len(faces)} faces; mean cosine with the original")
    print("".join(f"{title:>18}" for title in ["", *judges]))
    for name, attack in attacks(attacked, args.steps).items():
        changed = batched(attack, faces, args.batch)
        show(name, {title: similarity(net, changed, faces) for title, net in judges.items()})
    show("mirrored", {t: similarity(net, faces.flip(3), faces) for t, net in judges.items()})
    show(
        "another person", {t: similarity(net, faces.roll(1, 0), faces) for t, net in judges.items()}
    )


def recognizer(file: Path) -> FaceEmbedder:
    """A public recognizer by the world's interface."""
    imported = read_checkpoint(file)
    if imported.network not in CONVENTIONS:
        raise SystemExit(f"{file}: {imported.network} is no recognizer")
    return embedder(imported.network, build(imported))


def pictures(folder: Path, count: int) -> Tensor:
    """The first pictures of a folder by name."""
    files = sorted(f for f in folder.iterdir() if f.suffix in (".jpg", ".png"))[:count]
    if not files:
        raise SystemExit(f"{folder}: no .jpg or .png in it")
    return to_tensor(np.stack([cv2.imread(str(file))[..., ::-1] for file in files]))


Attack = Callable[[Tensor, range], Tensor]


def attacks(attacked: FaceEmbedder, steps: int) -> Mapping[str, Attack]:
    """By the row's title; the outputs go through 8 bits, the last one through JPEG as well."""
    weak, strong = FGSM(attacked, 0.03), FGSM(attacked, 0.1)
    pgd = PGD(attacked, 0.03, steps)
    return {
        "fgsm 0.03": lambda faces, seeds: quantize(weak(faces, seeds)),
        "fgsm 0.1": lambda faces, seeds: quantize(strong(faces, seeds)),
        "pgd 0.03": lambda faces, seeds: quantize(pgd(faces, seeds)),
        "pgd 0.03, JPEG 90": lambda faces, seeds: jpeg(pgd(faces, seeds), 90),
    }


def jpeg(faces: Tensor, quality: int) -> Tensor:
    """The pictures after JPEG."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    coded = [cv2.imencode(".jpg", face[..., ::-1], options)[1] for face in to_pixels(faces)]
    return to_tensor(np.stack([cv2.imdecode(c, cv2.IMREAD_COLOR)[..., ::-1] for c in coded]))


def batched(attack: Attack, faces: Tensor, size: int) -> Tensor:
    """`attack` on a few faces at a time, each with its index as seed."""
    starts = range(0, len(faces), size)
    return torch.cat(
        [attack(faces[i : i + size], range(i, min(i + size, len(faces)))) for i in starts]
    )


@torch.no_grad()
def similarity(net: FaceEmbedder, changed: Tensor, original: Tensor) -> float:
    """Mean cosine of each changed face with its original."""
    pairs = zip(changed.split(10), original.split(10), strict=True)
    return torch.cat([(net(a) * net(b)).sum(1) for a, b in pairs]).mean().item()


def show(name: str, row: Mapping[str, float]) -> None:
    """One row of the table."""
    print(f"{name:>18}" + "".join(f"{value:>18.3f}" for value in row.values()), flush=True)


if __name__ == "__main__":
    main()
