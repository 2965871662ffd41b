"""Trains the mini world's landmark network.

It judges generated faces, so it is trained on pictures that are shifted, rotated, blurred and
noisy.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deid.faces.alignment import INNER, apply_affine
from deid.nets.backbones import INPUT_SIZE
from deid.nets.landmark import LandmarkNet, cell_weights
from deid.pixels import to_tensor
from deid.worlds.cards import Card
from deid.worlds.mini.networks import landmark_net
from deid.worlds.mini.pretrain.augment import Jitter, augment
from deid.worlds.mini.pretrain.dataset import Renders
from deid.worlds.training_loop import Batches, Schedule, Task

JITTERS = (Jitter(shift=4.0, scale=0.1, roll=8.0), Jitter())  # for either half of a batch
_WEIGHT = torch.ones(68).index_fill_(0, torch.arange(17), 0.4)  # the jaw counts less


class Landmarks(Task):
    """On the renders in `data`."""

    def __init__(self, data: Path, steps: int) -> None:
        super().__init__("landmarks", Schedule(steps, seed=4, learning_rate=4e-3))
        self.renders = Renders(data)
        self.batches = Batches(self.renders.split("train"), self.schedule, self.stream)

    def build(self) -> nn.Module:
        return landmark_net()

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """Smooth L1 of the points in pixels, cross-entropy of the heat maps; the jaw counts less.

        The target heat is on the four cells about the point, with the point as its mean: without
        it the maps stay wide for long.
        """
        assert isinstance(model, LandmarkNet)
        indices, rng = self.batches(step), self.random(step)
        halves = zip(np.array_split(indices, len(JITTERS)), JITTERS, strict=True)
        parts = [augment(self.renders.images(half), jitter, rng) for half, jitter in halves]
        maps = np.concatenate([part[1] for part in parts])
        truth = torch.from_numpy(apply_affine(maps, self.renders.landmarks(indices))) / INPUT_SIZE
        with self.schedule.precision():
            heat = model.heat(torch.cat([part[0] for part in parts]))
        distance = F.smooth_l1_loss(
            model.place(heat) * INPUT_SIZE, truth * INPUT_SIZE, reduction="none", beta=0.5
        )
        cells, weights = cell_weights(truth)
        surprise = -(heat.gather(-1, cells) * weights).sum(-1)
        return ((distance.mean(-1) + 0.3 * surprise) * _WEIGHT).mean()

    def measure(self, model: nn.Module) -> tuple[nn.Module, Card]:
        """Errors on people not trained on."""
        test, trained = self.renders.split("test"), self.renders.split("train")
        parts = np.array_split(test, max(1, len(test) // 128))
        found = torch.cat([model(to_tensor(self.renders.images(part))) for part in parts])
        figures = landmark_errors(found, torch.from_numpy(self.renders.landmarks(test)))
        return model, {
            "network": "68 landmarks, residual backbone, soft-argmax over 16x16 heat maps",
            "objective": "smooth L1 in pixels and cross-entropy of heat maps; "
            f"{JITTERS[0]} on half",
            "data": f"{len(trained)} renders",
            "test": f"{len(test)} renders of other people; errors in eye-center distances",
            "figures": {key: round(value, 5) for key, value in figures.items()},
        }


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
