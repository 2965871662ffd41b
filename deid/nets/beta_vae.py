"""The encoder and decoder of β-VAE (Higgins et al. 2017), for pictures of 64 px."""

from itertools import pairwise

import torch
from torch import Tensor, nn

WIDTHS = (3, 24, 48, 72, 96)
"""Channels at 64², 32², 16², 8² and 4²; theirs are 32, 32, 64 and 64, and a dense layer of 256."""

LATENT = 32


class BetaVAE(nn.Module):
    """q(z|x) = N(μ, diag σ²) by four convolutions of stride 2; p(x|z) by their mirror image.

    `identity_factors [LATENT]` says which factors were found to carry the identity.
    """

    identity_factors: Tensor

    def __init__(self) -> None:
        super().__init__()
        flat = WIDTHS[-1] * 16
        down = [
            layer
            for inputs, outputs in pairwise(WIDTHS)
            for layer in (nn.Conv2d(inputs, outputs, 4, 2, 1), nn.ReLU(inplace=True))
        ]
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(flat, 2 * LATENT))
        up = [
            layer
            for inputs, outputs in pairwise(WIDTHS[::-1])
            for layer in (nn.ConvTranspose2d(inputs, outputs, 4, 2, 1), nn.ReLU(inplace=True))
        ]
        self.decoder = nn.Sequential(
            nn.Linear(LATENT, flat),
            nn.ReLU(),
            nn.Unflatten(1, (WIDTHS[-1], 4, 4)),
            *up[:-1],
        )
        self.register_buffer("identity_factors", torch.zeros(LATENT))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """`[N,3,64,64]` in [-1, 1] → μ and log σ², both `[N,LATENT]`."""
        mean, log_variance = self.encoder(images).chunk(2, 1)
        return mean, log_variance

    def decode(self, z: Tensor) -> Tensor:
        """`[N,LATENT]` → the mean of p(x|z), `[N,3,64,64]`, about [-1, 1]."""
        images: Tensor = self.decoder(z)
        return images
