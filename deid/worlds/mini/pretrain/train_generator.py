"""Trains the mini world's generator: the renderer, distilled into a StyleGAN2.

z is N(0, I) and means the renderer's parameters; the generator learns to draw what the renderer
draws. Errors count by region, for a mouth is one hundredth of the picture (`distillation.py`).
"""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deid.nets.stylegan2 import StyleGAN2
from deid.pixels import to_tensor
from deid.seeds import numpy_generator
from deid.worlds.cards import Card
from deid.worlds.mini.generator import mini_generator
from deid.worlds.mini.pretrain.dataset import Renders
from deid.worlds.mini.pretrain.distillation import distillation_loss, psnr, regions
from deid.worlds.mini.pretrain.optimizer import Muon
from deid.worlds.training_loop import Batches, Schedule, Task

ADAM_RATE = 0.2  # of Muon's: equal root mean square of a step
VALIDATION = 256  # pictures


class Distillation(Task):
    """On the renders in `data`."""

    memory_format = torch.contiguous_format  # the modulated convolutions are faster so

    def __init__(self, data: Path, schedule: Schedule) -> None:
        super().__init__("generator", schedule)
        self.renders = Renders(data)
        self.batches = Batches(self.renders.split("train"), schedule, self.stream)

    def build(self) -> nn.Module:
        return mini_generator()

    def optimizers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        """Muon for matrices and kernels; Adam for vectors, constants and ToRGB's three rows."""
        every, rate = list(model.parameters()), self.schedule.learning_rate
        matrices = [p for p in every if p.ndim >= 2 and p.shape[0] > 3]
        others = [p for p in every if p.ndim < 2 or p.shape[0] <= 3]
        return [Muon(matrices, rate), torch.optim.Adam(others, rate * ADAM_RATE, (0.9, 0.99))]

    def load(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        """z `[N,P]`, pictures `[N,3,S,S]`, landmarks `[N,68,2]`."""
        z = torch.from_numpy(self.renders.parameters(indices))
        landmarks = torch.from_numpy(self.renders.landmarks(indices))
        return z, to_tensor(self.renders.images(indices)), landmarks

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """Squared errors first, then absolute: squares converge sooner, absolutes end sharper."""
        z, rendered, landmarks = self.load(self.batches(step))
        with self.schedule.precision():
            generated = model(z)
        masks = regions(landmarks, generated.shape[-1])
        return distillation_loss(generated, rendered, masks, absolute=step / self.schedule.steps)

    def measure(self, model: nn.Module) -> tuple[nn.Module, Card]:
        """PSNR on people never trained on; the mean w is filled in."""
        assert isinstance(model, StyleGAN2)
        stream = numpy_generator("mini/generator/w_mean", 0, self.schedule.seed)
        z = torch.from_numpy(stream.standard_normal((10_000, model.z_dim))).float()
        model.w_mean.copy_(model.mapping(z).mean(0))
        settings, trained = self.renders.settings, self.renders.split("train")
        return model, {
            "network": "StyleGAN2 generator; z are the renderer's parameters",
            "objective": "distillation by L2, then L1, of colors and edges, weighted towards eyes"
            " and mouths; Muon; weights averaged",
            "data": f"{len(trained)} renders, {asdict(settings)}",
            "test": "renders of other people; PSNR in dB, over all pixels, mouths, eyes",
            "figures": {name: round(value, 2) for name, value in self.validate(model).items()},
        }

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """PSNR in dB over `VALIDATION` pictures of other people: all of each, mouths, eyes."""
        held_out = self.renders.split("validation")
        held_out = held_out[:: max(1, len(held_out) // VALIDATION)]
        loaded = [self.load(part) for part in np.array_split(held_out, len(held_out) // 64 + 1)]
        pairs = [(model(z), rendered, landmarks) for z, rendered, landmarks in loaded]
        generated, rendered, landmarks = (torch.cat(part) for part in zip(*pairs, strict=True))
        masks = regions(landmarks, generated.shape[-1])
        return {
            "psnr": psnr(generated, rendered),
            "psnr_mouth": psnr(generated, rendered, masks.mouth),
            "psnr_eyes": psnr(generated, rendered, masks.eyes),
        }


def generator(data: Path, steps: int) -> Task:
    """Two threads: it is the largest network and takes the longest."""
    schedule = Schedule(
        steps, batch_size=32, learning_rate=0.03, weight_decay=0.0, averaging=0.999, threads=2
    )
    return Distillation(data, schedule)
