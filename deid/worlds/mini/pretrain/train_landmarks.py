"""Trains the mini world's landmark network.

    python -m deid.worlds.mini.pretrain.train_landmarks --out FOLDER --steps 6000

It will judge generated faces, so it learns on pictures that are shifted, turned, blurred and noisy.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deid.faces.alignment import INNER, apply_affine
from deid.nets.backbones import INPUT_SIZE
from deid.nets.landmark import LandmarkNet, cell_weights
from deid.pixels import to_tensor
from deid.seeds import numpy_generator
from deid.worlds.mini.cards import Card
from deid.worlds.mini.networks import landmark_net
from deid.worlds.mini.pretrain.augment import Jitter, augment
from deid.worlds.mini.pretrain.dataset import Renders
from deid.worlds.mini.pretrain.fit import Batches, Schedule, train

JITTERS = (Jitter(shift=4.0, scale=0.1, roll=8.0), Jitter())  # for either half of a batch
_WEIGHT = torch.ones(68).index_fill_(0, torch.arange(17), 0.4)  # the jaw counts less


def loss(
    renders: Renders, batches: Batches, schedule: Schedule, model: nn.Module, step: int
) -> Tensor:
    """Smooth L1 of the places in pixels, cross-entropy of the heat maps; the jaw at less weight.

    The heat wanted is on the four cells about the point, with the point as its mean: without it the
    maps stay wide for long.
    """
    assert isinstance(model, LandmarkNet)
    indices = batches(step)
    rng = numpy_generator("mini/landmarks/augment", step, schedule.seed)
    halves = zip(np.array_split(indices, len(JITTERS)), JITTERS, strict=True)
    parts = [augment(renders.images(half), jitter, rng) for half, jitter in halves]
    maps = np.concatenate([part[1] for part in parts])
    truth = torch.from_numpy(apply_affine(maps, renders.landmarks(indices))) / INPUT_SIZE
    with schedule.precision():
        heat = model.heat(torch.cat([part[0] for part in parts]))
    distance = F.smooth_l1_loss(
        model.place(heat) * INPUT_SIZE, truth * INPUT_SIZE, reduction="none", beta=0.5
    )
    cells, weights = cell_weights(truth)
    surprise = -(heat.gather(-1, cells) * weights).sum(-1)
    return ((distance.mean(-1) + 0.3 * surprise) * _WEIGHT).mean()


def landmark_errors(found: Tensor, truth: Tensor) -> dict[str, float]:
    """Mean error of the 51 inner points `[N,68,2]`: pixels, and in inter-ocular distances.

    Inter-ocular is from the center of one eye (mean of its six points) to that of the other.
    """
    distance = (found - truth).norm(dim=-1)
    eyes = truth[:, 36:42].mean(1) - truth[:, 42:48].mean(1)
    relative = distance / eyes.norm(dim=-1, keepdim=True)
    return {
        "inner_pixels": float(distance[:, INNER].mean()),
        "inner_error": float(relative[:, INNER].mean()),
        "jaw_error": float(relative[:, : INNER.start].mean()),
    }


def measure(renders: Renders, model: nn.Module) -> tuple[nn.Module, Card]:
    """The network and its figures on people not trained on."""
    test, trained = renders.split("test"), renders.split("train")
    parts = np.array_split(test, max(1, len(test) // 128))
    found = torch.cat([model(to_tensor(renders.images(part))) for part in parts])
    figures = landmark_errors(found, torch.from_numpy(renders.landmarks(test)))
    return model, {
        "network": "68 landmarks, residual backbone, soft-argmax over 16x16 heat maps",
        "objective": f"smooth L1 in pixels and cross-entropy of heat maps; {JITTERS[0]} on half",
        "data": f"{len(trained)} renders",
        "test": f"{len(test)} renders of other people; errors in eye-center distances",
        "figures": {key: round(value, 5) for key, value in figures.items()},
    }


def train_landmarks(data: Path, out: Path, steps: int) -> None:
    """Train on the renders in `data`, into the folder `out`."""
    renders, schedule = Renders(data), Schedule(steps, seed=4, learning_rate=4e-3)
    batches = Batches(renders.split("train"), schedule, "landmarks")
    train(
        "landmarks",
        landmark_net,
        partial(loss, renders, batches, schedule),
        partial(measure, renders),
        schedule,
        out,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data/mini/renders"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    given = parser.parse_args()
    train_landmarks(given.data, given.out, given.steps)


if __name__ == "__main__":
    main()
