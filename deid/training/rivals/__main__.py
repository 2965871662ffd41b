"""Trains one learned rival: `python -m deid.training.rivals NAME --params FILE --data PICTURES`.

`data/rivals/dvc.yaml` has the numbers with which those in git were trained.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from deid.params import load_params
from deid.training.rivals.alae import alae
from deid.training.rivals.beta_vae import beta_vae
from deid.training.rivals.ciagan import ciagan
from deid.training.rivals.face_shifter import faceshifter
from deid.training.rivals.fsgan import fsgan
from deid.training.rivals.infogan import infogan
from deid.training.rivals.task import RivalTask
from deid.worlds import load_world
from deid.worlds.training_loop import train
from deid.worlds.world import World

TASKS: Mapping[str, Callable[[World, Path, int], RivalTask]] = {
    "alae": alae,
    "infogan": infogan,
    "beta-vae": beta_vae,
    "fsgan": fsgan,
    "faceshifter": faceshifter,
    "ciagan": ciagan,
}
"""(world, pictures, steps) → the training of each rival."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=list(TASKS))
    parser.add_argument("--params", type=Path, required=True, help="whose world it is trained in")
    parser.add_argument("--data", type=Path, required=True, help="a finished folder of pictures")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    world = load_world(load_params(given.params).world)
    train(TASKS[given.name](world, given.data, given.steps), given.out)


if __name__ == "__main__":
    main()
