"""Trains one of the mini world's networks on renders.

    python -m deid.worlds.mini.pretrain NAME --data RENDERS --out FOLDER --steps N

`dvc.yaml` in `data/mini/pretrain` has the numbers with which those in git were trained.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

from deid.worlds.mini.pretrain import train_attributes, train_recognizer
from deid.worlds.mini.pretrain.train_attributes import Attributes
from deid.worlds.mini.pretrain.train_detector import detector, finder
from deid.worlds.mini.pretrain.train_generator import generator
from deid.worlds.mini.pretrain.train_landmarks import Landmarks
from deid.worlds.mini.pretrain.train_recognizer import Recognition
from deid.worlds.training_loop import Task, train

TASKS: dict[str, Callable[[Path, int], Task]] = {
    **{name: partial(Recognition, name) for name in train_recognizer.RECIPES},
    **{name: partial(Attributes, name) for name in train_attributes.RECIPES},
    "landmarks": Landmarks,
    "detector": detector,
    "finder": finder,
    "generator": generator,
}
"""(renders, steps) → the training of each network."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=list(TASKS))
    parser.add_argument("--data", type=Path, required=True, help="a finished folder of renders")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    given = parser.parse_args()
    train(TASKS[given.name](given.data, given.steps), given.out)


if __name__ == "__main__":
    main()
