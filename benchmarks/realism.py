"""Whether networks that trained on real people take the renders for people.

    python benchmarks/realism.py foamliu=foamliu_mobilefacenet.onnx

A recognizer looks at renders aligned by their true landmarks, people × views, and tells pairs of
one person from pairs of two: AUC, and the share of true pairs accepted at one false in a thousand.
"""

import argparse

import cv2
import numpy as np
import torch

from deid.evaluate.metrics import threshold_at
from deid.faces.alignment import five_points
from deid.gate.calibration import pair_similarities
from deid.gate.judges import build_verifier
from deid.params import WorldParams
from deid.pixels import to_pixels
from deid.worlds import load_world
from deid.worlds.mini.render.parameters import identity_views
from deid.worlds.mini.render.renderer import render

SHOWN = 256  # the recognizer is shown renders enlarged to this side


def main() -> None:
    """Print one line a seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recognizer", help="foamliu=FILE or arcface=FILE")
    parser.add_argument("--identities", type=int, default=100)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--size", type=int, default=64, help="pixels of a render's side")
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101])
    args = parser.parse_args()
    (judge,) = build_verifier([args.recognizer], load_world(WorldParams())).judges
    people = np.repeat(np.arange(args.identities), args.views)
    for seed in args.seeds:
        drawn = render(
            torch.from_numpy(identity_views(range(args.identities), args.views, seed)), args.size
        )
        pixels = np.stack(
            [
                cv2.resize(face, (SHOWN, SHOWN), interpolation=cv2.INTER_CUBIC)
                for face in to_pixels(drawn.images)
            ]
        )
        points = five_points(drawn.landmarks.numpy()) * (SHOWN / args.size)
        same, other = pair_similarities(judge.embed(pixels, points), people)
        accepted = float((same > threshold_at(1e-3, other)).mean())
        print(
            f"seed {seed}: {args.identities} people x {args.views} views at {args.size} px, "
            f"AUC {area_under_curve(same, other):.4f}, TAR at FAR 1e-3 {accepted:.3f}"
        )


def area_under_curve(same: np.ndarray, other: np.ndarray) -> float:
    """Share of (same, other) pairs in which the same person scores higher."""
    ordered = np.sort(other)
    below = np.searchsorted(ordered, same, "left") + np.searchsorted(ordered, same, "right")
    return float(below.mean() / (2 * len(ordered)))


if __name__ == "__main__":
    main()
