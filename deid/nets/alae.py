"""The networks of ALAE (Pidhorskyi et al. 2020) in its style-based form: F, G, E and D.

G is StyleGAN1's synthesis. E mirrors it: where G's layers take a style, E's give one, the mean and
deviation of each channel, and the sum of linear maps of these is w. Layers of 32² and 64² would be
nearly all of the work: E sees pictures of 64 px as maps of 16² with 48 channels, the pixels of each
place beside each other, and G adds such a map to a smooth picture.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deid.nets.style import EqualLinear, MappingNetwork
from deid.nets.stylegan1 import Convolution, StyledLayer

PLACE = 4
"""The side of what a place of the largest map draws, in pixels."""

WIDTHS = (96, 96, 64)
"""Channels of the maps of 4², 8² and 16²."""

Z_DIM, W_DIM = 64, 96
LAYERS = 2 * len(WIDTHS)
"""Of G, each with a w of its own: two at 4², two at 8², …"""


class StyleDecoder(nn.Module):
    """G: `w+ [N,LAYERS,W_DIM]` → pictures `[N,3,64,64]`, about [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.randn(1, WIDTHS[0], 4, 4))
        self.convolutions = nn.ModuleList()  # one before each layer but the first
        self.layers = nn.ModuleList()
        for index, width in enumerate(WIDTHS):
            if index > 0:
                self.convolutions.append(Convolution(WIDTHS[index - 1], width, None, False))
            self.convolutions.append(Convolution(width, width, None, False))
            self.layers += [StyledLayer(width, 4 << index, W_DIM, 1e-5) for _ in range(2)]
        self.to_rgb = Convolution(WIDTHS[-1], 3, None, False)
        self.to_pixels = Convolution(WIDTHS[-1], 3 * PLACE**2, None, False)
        with torch.no_grad():  # begin with smooth pictures, near gray
            self.to_rgb.weight.mul_(0.3)
            self.to_pixels.weight.mul_(0.03)

    def forward(self, ws: Tensor) -> Tensor:
        x = self.layers[0](self.constant.expand(len(ws), -1, -1, -1), ws[:, 0])
        for index, convolution in enumerate(self.convolutions, start=1):
            x = convolution(x)
            if index % 2 == 0:
                x = F.interpolate(x, scale_factor=2.0, mode="bilinear")
            x = self.layers[index](x, ws[:, index])
        smooth = F.interpolate(self.to_rgb(x), scale_factor=float(PLACE), mode="bilinear")
        return smooth + F.pixel_shuffle(self.to_pixels(x), PLACE)


class Extraction(nn.Module):
    """Convolution, leaky ReLU; takes each channel's mean and deviation out, and gives them as w."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution = Convolution(inputs, outputs, None, False)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.style = EqualLinear(2 * outputs, W_DIM)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.leaky_relu(self.convolution(x) + self.bias[:, None, None], 0.2)
        mean = x.mean((2, 3), keepdim=True)
        deviation = torch.sqrt((x - mean).square().mean((2, 3), keepdim=True) + 1e-5)
        styles = torch.cat([mean, deviation], 1).flatten(1)
        return (x - mean) / deviation, self.style(styles)


class StyleEncoder(nn.Module):
    """E: pictures `[N,3,64,64]` → `w [N,W_DIM]`."""

    def __init__(self) -> None:
        super().__init__()
        widths = WIDTHS[::-1]
        self.layers = nn.ModuleList([Extraction(3 * PLACE**2, widths[0])])
        for here, there in pairwise((*widths, widths[-1])):  # two for each size
            self.layers += [Extraction(here, here), Extraction(here, there)]

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
    """E and G: what is left of ALAE when it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = StyleEncoder(), StyleDecoder()

    def encode(self, images: Tensor) -> Tensor:
        """`[N,3,64,64]` → `w [N,W_DIM]`."""
        w: Tensor = self.encoder(images)
        return w

    def decode(self, w: Tensor) -> Tensor:
        """`w [N,W_DIM]`, or w+ `[N,LAYERS,W_DIM]` → `[N,3,64,64]`."""
        ws = w[:, None].expand(-1, LAYERS, -1) if w.ndim == 2 else w
        images: Tensor = self.decoder(ws)
        return images


class ALAE(nn.Module):
    """All four networks; the discriminator of pictures is D∘E, their generator G∘F."""

    def __init__(self) -> None:
        super().__init__()
        self.autoencoder = Autoencoder()
        # Faster than StyleGAN's 0.01, for a training a thousand times as short.
        self.mapping = MappingNetwork([Z_DIM, 128, 128, W_DIM], rate=0.1)
        widths = (W_DIM, W_DIM, W_DIM, 1)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [EqualLinear(inputs, outputs), nn.LeakyReLU(0.2)]
        self.discriminator = nn.Sequential(*layers[:-1])

    def logits(self, images: Tensor) -> Tensor:
        """D∘E: how sure it is that pictures `[N,3,64,64]` are real, `[N]`."""
        logits: Tensor = self.discriminator(self.autoencoder.encode(images))
        return logits[:, 0]
