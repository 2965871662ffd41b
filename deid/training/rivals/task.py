"""What the trainings of all learned rivals have in common."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deid.training.rivals.pictures import Pictures
from deid.worlds.training_loop import Batches, Schedule, Task
from deid.worlds.world import World


class RivalTask(Task):
    """A rival's training on `pictures` of `world`, whose networks stay as they are."""

    family = "rivals"

    def __init__(self, name: str, world: World, data: Path, schedule: Schedule) -> None:
        super().__init__(name, schedule)
        self.world, self.pictures = world, Pictures(data)
        self.batches = Batches(self.pictures.split(), schedule, self.stream)

    def recipe(self) -> dict[str, Any]:
        """With the pictures, and the networks that it learns from."""
        drawn = {"pictures": asdict(self.pictures.settings), "world": self.world.trained_for}
        return super().recipe() | drawn

    @property
    def validation(self) -> NDArray[np.int64]:
        """Of people it is not trained on: all pictures, or 256 to 511 of them."""
        held_out = self.pictures.split(validation=True)
        return held_out[:: max(1, len(held_out) // 256)]

    def likeness(self, faces: Tensor, made: Tensor) -> float:
        """The mean cosine in En_id of each picture with what was made of it."""
        pairs = zip(torch.split(faces, 1), torch.split(made.clamp(-1.0, 1.0), 1), strict=True)
        codes = [(self.world.identity(face), self.world.identity(other)) for face, other in pairs]
        return round(float(torch.cat([(a * b).sum(1) for a, b in codes]).mean()), 3)

    def card(self, network: nn.Module, /, **facts: object) -> tuple[nn.Module, dict[str, object]]:
        """The network to keep, in half precision, and what its card says beside `facts`."""
        settings = self.pictures.settings
        data = f"{settings.people} people, {settings.views} views each, drawn by {self.world.name}"
        return network.half(), {"data": data, "world": self.world.trained_for, **facts}
