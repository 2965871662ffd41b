"""Fits the small heads of `deid.nets.mobile_stylegan` to the generator's own pictures.

A head sees the features of an earlier block and is to draw the 1024 px picture of the same w,
reduced by area. Features of a whole picture are large, so of each only a crop is kept.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from deid.nets.mobile_stylegan import MobileStyleGAN, SmallHead
from deid.seeds import torch_generator

CROP = 64
"""Side of a crop of features, half that of its part of the picture."""
HELD_OUT = 16
"""The last pictures, which no head is fitted to."""
BATCH, RATE = 4, 3e-3

Report = Callable[[str], None]


@dataclass(frozen=True)
class Examples:
    """Crops for one head, half precision."""

    features: Tensor  # [N,C,CROP,CROP]
    w: Tensor  # [N,512]
    targets: Tensor  # [N,3,2 CROP,2 CROP]

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Some rows in full precision."""
        return self.features[rows].float(), self.w[rows].float(), self.targets[rows].float()


def fit_heads(
    generator: MobileStyleGAN, pictures: int, steps: int, seed: int = 0, report: Report = print
) -> dict[int, float]:
    """Train every head in place; the PSNR each reaches on held-out crops, dB, by its resolution."""
    collected = collect(generator, pictures, seed, report)
    reached = {}
    for side, examples in collected.items():
        head = generator.heads[str(side)]
        assert isinstance(head, SmallHead)
        fit(head, examples, steps, seed)
        reached[side] = psnr(head, examples)
        report(f"head of {side} px: {reached[side]:.2f} dB")
    return reached


@torch.no_grad()
def collect(
    generator: MobileStyleGAN, pictures: int, seed: int, report: Report = print
) -> dict[int, Examples]:
    """Draw `pictures` at 1024 px and cut one crop for every head from each."""
    parts: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {
        side: [] for side in generator.resolutions[:-1]
    }
    for index in range(pictures):
        random = torch_generator("photo/heads", index, seed)
        w = _draw_w(generator, random)
        picture = generator.synthesis(w, generator.resolutions[-1])
        for side, examples in parts.items():
            features = generator.features(generator.spread(w), side)
            target = F.avg_pool2d(picture, generator.resolutions[-1] // side)
            y, x = torch.randint(0, side // 2 - CROP + 1, (2,), generator=random).tolist()
            crop = features[0, :, y : y + CROP, x : x + CROP]
            wanted = target[0, :, 2 * y : 2 * (y + CROP), 2 * x : 2 * (x + CROP)]
            examples.append((crop.half(), w[0].half(), wanted.half()))
        if index % 20 == 19:
            report(f"heads: {index + 1} of {pictures} pictures drawn")
    return {
        side: Examples(*map(torch.stack, zip(*rows, strict=True))) for side, rows in parts.items()
    }


def _draw_w(generator: MobileStyleGAN, random: torch.Generator) -> Tensor:
    """One w, truncated at random between half and not at all."""
    z = torch.randn(256, generator.z_dim, generator=random)
    w = generator.mapping(z)
    psi = 0.5 + 0.5 * torch.rand((), generator=random)
    return w.mean(0, keepdim=True).lerp(w[:1], psi)


def fit(head: SmallHead, examples: Examples, steps: int, seed: int) -> None:
    """Adam on the mean squared error, with a rate that falls along a cosine."""
    head.requires_grad_(True)
    optimizer = torch.optim.Adam(head.parameters(), RATE)
    random = torch_generator("photo/heads/batches", 0, seed)
    count = len(examples.w) - HELD_OUT
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        rows = torch.randint(0, count, (BATCH,), generator=random)
        loss = _error(head, *examples.batch(rows))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    head.requires_grad_(False)


@torch.no_grad()
def psnr(head: SmallHead, examples: Examples) -> float:
    """Peak signal to noise on the held-out crops, dB; the range of values is 2."""
    rows = torch.arange(len(examples.w) - HELD_OUT, len(examples.w))
    return 10 * math.log10(4 / _error(head, *examples.batch(rows)).item())


def _error(head: SmallHead, features: Tensor, w: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error, without the border, where a crop knows less than a picture."""
    inner = (..., slice(2, -2), slice(2, -2))
    return F.mse_loss(head(features, w)[inner], targets[inner])
