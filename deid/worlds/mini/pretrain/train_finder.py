"""Trains the network with which the mini world looks carefully at photographs.

    python -m deid.worlds.mini.pretrain.train_finder --out data/mini/trained/finder --steps 2600

Shape, loss and targets are the detector's, which looks once at upright people and by which the
evaluation counts. This one sees heads at any turn and place, hidden and cut, and crowds
(`deid.worlds.mini.pretrain.crowds`); and scenes, so that it knows what the detector knows.
"""

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from deid.faces.detection.center import CenterDetector
from deid.seeds import numpy_generator
from deid.worlds.mini.cards import Card
from deid.worlds.mini.networks import center_net
from deid.worlds.mini.pretrain.crowds import Cast, cast, crowd
from deid.worlds.mini.pretrain.fit import Schedule, train
from deid.worlds.mini.pretrain.train_detector import (
    WINDOW,
    Lessons,
    Picture,
    covered,
    draw_scenes,
    loss,
    match,
    scene,
    texture,
    window,
)


@dataclass(frozen=True)
class AnyPeople:
    """Windows: most of heads at any turn, some from scenes, some of nobody."""

    cast: Cast
    scenes: list[Picture]

    def __call__(self, rng: np.random.Generator) -> Picture:
        kind = rng.random()
        if kind < 0.1:
            return texture(rng)
        if kind < 0.35:
            cut = window(self.scenes[rng.integers(len(self.scenes))], rng)
        else:
            cut = crowd(self.cast, WINDOW, rng)
        return covered(cut, rng) if rng.random() < 0.08 else cut


def figures(detector: CenterDetector, pictures: list[Picture]) -> dict[str, float]:
    """Recall of clear faces at IoU 0.5 and false faces a picture, one look at each."""
    found = detector.detect([picture.pixels for picture in pictures])
    matches = [match(f, p) for f, p in zip(found, pictures, strict=True)]
    faces = sum(int(picture.clear.sum()) for picture in pictures)
    return {
        "recall": round(sum(hit for hit, _ in matches) / faces, 5),
        "false_faces": round(sum(false for _, false in matches) / len(pictures), 5),
    }


def known(picture: Picture) -> Picture:
    """The picture, its faces below 16 or beyond 40 pixels a matter of taste."""
    sides = np.sqrt((picture.boxes[:, 2:] - picture.boxes[:, :2]).prod(1))
    clear = (sides >= 16) & (sides <= 40)
    return Picture(picture.pixels, picture.boxes, picture.points, clear)


def measure(model: nn.Module) -> tuple[nn.Module, Card]:
    """The network and its figures on people and scenes not trained on."""
    detector, others = CenterDetector(model), cast(60, seed=1)
    streams = [numpy_generator("mini/crowds/test", index) for index in range(200)]
    crowds = [known(crowd(others, 2 * WINDOW, rng)) for rng in streams]
    scenes = [scene(index, "mini/scenes/test") for index in range(120)]
    return model, {
        "network": "the detector's",
        "objective": "the detector's",
        "data": "windows of heads at any turn over anything, of rendered scenes, textures",
        "test": "200 crowds of other people (faces of 16 to 40 px) and 120 other scenes, IoU 0.5",
        "figures": {"crowds": figures(detector, crowds), "scenes": figures(detector, scenes)},
    }


def train_finder(out: Path, steps: int, people: int = 1200, scenes: int = 600) -> None:
    """Train on `people` heads and on `scenes` scenes drawn first, into the folder `out`."""
    torch.set_num_threads(1)
    schedule = Schedule(steps, seed=8, batch_size=32)
    lessons = Lessons(
        "mini/finder/windows", AnyPeople(cast(people, seed=2), draw_scenes(scenes)), schedule
    )
    train("finder", center_net, partial(loss, lessons), measure, schedule, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    given = parser.parse_args()
    train_finder(given.out, given.steps)


if __name__ == "__main__":
    main()
