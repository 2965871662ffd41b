"""Trains the attribute networks by regression of the parameters from which a picture was rendered.

`expression` (the trunk that stage one fine-tunes) learns expression, pose and light; `perceptual`
(of stage two's loss) and `metric_features` (of the report's figures) learn every parameter.
`metric_features` has a backbone, a seed and renders of its own, so that no figure is measured by a
network which training could please.
"""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deid.nets.attributes import AttributeRegressor
from deid.pixels import to_tensor
from deid.worlds.cards import Card
from deid.worlds.mini.networks import ATTRIBUTES, attribute_regressor, columns
from deid.worlds.mini.pretrain.augment import Jitter, augment
from deid.worlds.mini.pretrain.dataset import Renders
from deid.worlds.mini.render.parameters import GROUPS, PARAMETERS
from deid.worlds.training_loop import Batches, Schedule, Task

RECIPES = {  # seed, bfloat16
    "expression": (5, True),
    "perceptual": (6, True),
    "metric_features": (9, False),
}


class Attributes(Task):
    """Network `name` of `RECIPES`, on the renders in `data`."""

    def __init__(self, name: str, data: Path, steps: int) -> None:
        seed, bfloat16 = RECIPES[name]
        super().__init__(name, Schedule(steps, seed, bfloat16=bfloat16))
        self.renders, self.columns = Renders(data), columns(name)
        self.batches = Batches(self.renders.split("train"), self.schedule, self.stream)

    def build(self) -> nn.Module:
        return attribute_regressor(self.name)

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """Mean squared error; each parameter has variance 1, which a constant would reach."""
        indices = self.batches(step)
        images, _ = augment(self.renders.images(indices), Jitter(), self.random(step))
        truth = torch.from_numpy(self.renders.parameters(indices)[:, self.columns])
        with self.schedule.precision():
            found = model(images)
        return F.mse_loss(found.float(), truth)

    def measure(self, model: nn.Module) -> tuple[nn.Module, Card]:
        """The variance it explains (R²), as a mean over each group, on people not trained on."""
        assert isinstance(model, AttributeRegressor)
        test, trained = self.renders.split("test"), self.renders.split("train")
        parts = np.array_split(test, max(1, len(test) // 128))
        found = torch.cat([model(to_tensor(self.renders.images(part))) for part in parts]).numpy()
        truth = self.renders.parameters(test)[:, self.columns]
        explained = np.zeros(PARAMETERS)
        explained[self.columns] = 1 - np.square(found - truth).mean(0) / truth.var(0)
        groups = ATTRIBUTES[self.name]
        return model, {
            "network": f"{self.name} network, {model.trunk.backbone.family} backbone",
            "objective": f"regression of the renderer's {', '.join(groups)}",
            "data": f"{len(trained)} renders, {asdict(self.renders.settings)}",
            "test": f"{len(test)} renders of other people",
            "figures": {f"r2_{g}": round(float(explained[GROUPS[g]].mean()), 4) for g in groups},
        }
