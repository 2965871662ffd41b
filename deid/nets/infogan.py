"""The networks of InfoGAN (Chen et al. 2016), as its appendix has them for faces, at 64 px."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NOISE, CATEGORICAL, VALUES, CONTINUOUS = 128, 10, 10, 5
"""z has 128 numbers; c ten categories of ten values, as theirs for CelebA, and five numbers in
[-1, 1], as theirs for rendered faces."""

CODES = CATEGORICAL * VALUES + CONTINUOUS
WIDTHS = (96, 72, 48, 24)
"""Channels at 4², 8², 16² and 32², of generator and discriminator."""


@dataclass(frozen=True)
class Posterior:
    """Q(c|x): the categories' logits `[N,10,10]`, mean and log-variance of the numbers `[N,5]`."""

    logits: Tensor
    mean: Tensor
    log_variance: Tensor

    @property
    def best(self) -> Tensor:
        """The likeliest codes as the generator takes them, `[N,CODES]`."""
        hot = F.one_hot(self.logits.argmax(2), VALUES).to(self.mean)
        return torch.cat([hot.flatten(1), self.mean.clamp(-1.0, 1.0)], 1)


class Generator(nn.Module):
    """`z [N,NOISE]` and codes `[N,CODES]` → pictures `[N,3,64,64]` in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Linear(NOISE + CODES, WIDTHS[0] * 16, bias=False),
            nn.Unflatten(1, (WIDTHS[0], 4, 4)),
            nn.BatchNorm2d(WIDTHS[0]),
            nn.ReLU(),
        ]
        for inputs, outputs in pairwise(WIDTHS):
            up = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False)
            layers += [up, nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.ConvTranspose2d(WIDTHS[-1], 3, 4, 2, 1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor, codes: Tensor) -> Tensor:
        images: Tensor = self.layers(torch.cat([z, codes], 1))
        return images


class Recognition(nn.Module):
    """D and Q, which share all convolutions: pictures `[N,3,64,64]` → logits `[N]` of being real,
    and what Q says of the codes."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((3, *WIDTHS[::-1])):
            layers.append(nn.Conv2d(inputs, outputs, 4, 2, 1, bias=inputs == 3))
            if inputs > 3:
                layers.append(nn.BatchNorm2d(outputs))
            layers.append(nn.LeakyReLU(0.1))
        self.trunk = nn.Sequential(*layers, nn.Flatten())
        flat = WIDTHS[0] * 16
        self.real = nn.Linear(flat, 1)
        self.hidden = nn.Sequential(
            nn.Linear(flat, 128, bias=False), nn.BatchNorm1d(128), nn.LeakyReLU(0.1)
        )
        self.codes = nn.Linear(128, CATEGORICAL * VALUES + 2 * CONTINUOUS)

    def forward(self, images: Tensor) -> tuple[Tensor, Posterior]:
        features = self.trunk(images)
        said = self.codes(self.hidden(features))
        logits, mean, spread = said.split([CATEGORICAL * VALUES, CONTINUOUS, CONTINUOUS], 1)
        # A bounded variance: an unbounded one makes a density, and so the bound, endless.
        posterior = Posterior(logits.unflatten(1, (CATEGORICAL, VALUES)), mean, spread.clamp(-6, 2))
        return self.real(features)[:, 0], posterior


class InfoGAN(nn.Module):
    """G, and D with Q."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.recognition = Generator(), Recognition()
        for module in self.modules():  # as DCGAN's
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
