"""The networks of ALAE (Pidhorskyi et al. 2020) in its style-based form: F, G, E and D.

F and G are those of a StyleGAN. E mirrors G: where G's layers take a style, E's give one, the mean
and deviation of each channel, and the sum of linear maps of these is w. Layers of 32² and 64² would
be nearly all of E's work: it sees pictures of 64 px as maps of 16² with 48 channels, the pixels of
each place beside each other.
"""

from copy import deepcopy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deid.nets.style import EqualLinear, StyleGenerator
from deid.nets.stylegan1 import Convolution

PLACE = 4
"""The side of what a place of E's largest map shows, in pixels."""

WIDTHS = (64, 96, 96)
"""E's channels at 16², 8² and 4²."""


class Extraction(nn.Module):
    """Convolution, leaky ReLU; takes each channel's mean and deviation out, and gives them as w."""

    def __init__(self, inputs: int, outputs: int, w_dim: int) -> None:
        super().__init__()
        self.convolution = Convolution(inputs, outputs, None, False)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.style = EqualLinear(2 * outputs, w_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.leaky_relu(self.convolution(x) + self.bias[:, None, None], 0.2)
        mean = x.mean((2, 3), keepdim=True)
        deviation = torch.sqrt((x - mean).square().mean((2, 3), keepdim=True) + 1e-5)
        styles = torch.cat([mean, deviation], 1).flatten(1)
        return (x - mean) / deviation, self.style(styles)


class StyleEncoder(nn.Module):
    """E: pictures `[N,3,64,64]` → `w [N,w_dim]`."""

    def __init__(self, w_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Extraction(3 * PLACE**2, WIDTHS[0], w_dim)])
        for here, there in pairwise((*WIDTHS, WIDTHS[-1])):  # two for each size
            self.layers += [Extraction(here, here, w_dim), Extraction(here, there, w_dim)]

    def forward(self, images: Tensor) -> Tensor:
        x, styles = F.pixel_unshuffle(images, PLACE), []
        for index, layer in enumerate(self.layers):
            if index in range(2, 2 * len(WIDTHS), 2):
                x = F.avg_pool2d(x, 2)
            x, style = layer(x)
            styles.append(style)
        w: Tensor = torch.stack(styles).sum(0) / len(styles) ** 0.5
        return w


class Autoencoder(nn.Module):
    """E, and a copy of a StyleGAN's synthesis as G: what is left of ALAE when it is trained."""

    def __init__(self, generator: StyleGenerator) -> None:
        super().__init__()
        self.encoder = StyleEncoder(generator.w_dim)
        self.decoder = deepcopy(generator).requires_grad_(True)
        del self.decoder.mapping_network  # F, which only the training needs

    def encode(self, images: Tensor) -> Tensor:
        """`[N,3,64,64]` → `w [N,w_dim]`."""
        w: Tensor = self.encoder(images)
        return w

    def decode(self, w: Tensor) -> Tensor:
        """`w [N,w_dim]`, or w+ `[N,num_ws,w_dim]` → `[N,3,64,64]`."""
        return self.decoder.synthesis(w)


class ALAE(nn.Module):
    """All four networks; the discriminator of pictures is D∘E, their generator G∘F."""

    def __init__(self, generator: StyleGenerator) -> None:
        super().__init__()
        self.mapping = deepcopy(generator.mapping_network).requires_grad_(True)
        self.autoencoder = Autoencoder(generator)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((*[generator.w_dim] * 3, 1)):
            layers += [EqualLinear(inputs, outputs), nn.LeakyReLU(0.2)]
        self.discriminator = nn.Sequential(*layers[:-1])

    def logits(self, images: Tensor) -> Tensor:
        """D∘E: how sure it is that pictures `[N,3,64,64]` are real, `[N]`."""
        logits: Tensor = self.discriminator(self.autoencoder.encode(images))
        return logits[:, 0]
