"""Trains the attribute networks by regression of the parameters from which a picture was rendered.

    python -m deid.worlds.mini.pretrain.train_attributes expression --out OUT --steps 900

`expression` (the trunk that stage one fine-tunes) learns expression, pose and light; `perceptual`
(of stage two's loss) and `metric_features` (of the report's figures) learn every parameter.
`metric_features` has a backbone, a seed and renders of its own, so that no figure is measured by a
network which training could please.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deid.nets.attributes import AttributeRegressor
from deid.pixels import to_tensor
from deid.seeds import numpy_generator
from deid.worlds.mini.cards import Card
from deid.worlds.mini.networks import ATTRIBUTES, attribute_regressor, columns
from deid.worlds.mini.pretrain.augment import Jitter, augment
from deid.worlds.mini.pretrain.dataset import Renders
from deid.worlds.mini.pretrain.fit import Batches, Schedule, train
from deid.worlds.mini.render.parameters import GROUPS, PARAMETERS

RECIPES = {  # seed, bfloat16
    "expression": (5, True),
    "perceptual": (6, True),
    "metric_features": (9, False),
}


def loss(
    name: str, renders: Renders, batches: Batches, schedule: Schedule, model: nn.Module, step: int
) -> Tensor:
    """Mean squared error; the numbers have variance 1, so 1 is ignorance."""
    indices = batches(step)
    rng = numpy_generator(f"mini/{name}/augment", step, schedule.seed)
    images, _ = augment(renders.images(indices), Jitter(), rng)
    truth = torch.from_numpy(renders.parameters(indices)[:, columns(name)])
    with schedule.precision():
        found = model(images)
    return F.mse_loss(found.float(), truth)


def measure(name: str, renders: Renders, model: nn.Module) -> tuple[nn.Module, Card]:
    """The network, and the variance it explains (R²) of each group, on people not trained on."""
    assert isinstance(model, AttributeRegressor)
    test, trained = renders.split("test"), renders.split("train")
    parts = np.array_split(test, max(1, len(test) // 128))
    found = torch.cat([model(to_tensor(renders.images(part))) for part in parts]).numpy()
    wanted = columns(name)
    truth = renders.parameters(test)[:, wanted]
    explained = 1 - np.square(found - truth).mean(0) / truth.var(0)
    of = dict(zip(wanted, explained, strict=True))
    figures = {
        f"r2_{group}": round(float(np.mean([of[i] for i in range(PARAMETERS)[GROUPS[group]]])), 4)
        for group in ATTRIBUTES[name]
    }
    return model, {
        "network": f"{name} network, {model.trunk.backbone.family} backbone",
        "objective": f"regression of the renderer's {', '.join(ATTRIBUTES[name])}",
        "data": f"{len(trained)} renders",
        "test": f"{len(test)} renders of other people",
        "figures": figures,
    }


def train_attributes(name: str, data: Path, out: Path, steps: int) -> None:
    """Train network `name` on the renders in `data`, into the folder `out`."""
    seed, bfloat16 = RECIPES[name]
    renders, schedule = Renders(data), Schedule(steps, seed, bfloat16=bfloat16)
    batches = Batches(renders.split("train"), schedule, name)
    train(
        name,
        lambda: attribute_regressor(name),
        partial(loss, name, renders, batches, schedule),
        partial(measure, name, renders),
        schedule,
        out,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=list(RECIPES))
    parser.add_argument("--data", type=Path, default=Path("data/mini/renders"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    given = parser.parse_args()
    train_attributes(given.name, given.data, given.out, given.steps)


if __name__ == "__main__":
    main()
