"""Input diversity, after Xie et al. 2019: an attack sees each picture changed at random. (Theirs
resizes and pads, with a probability; here each picture is turned, moved, scaled, mirrored and lit.)

What fools a recognizer however the picture is moved and lit fools recognizers that nobody attacked.
The adversarial mapping is trained with it, and FGSM, PGD and MI-FGSM attack with it.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def draw_changes(count: int, random: torch.Generator) -> Tensor:
    """How `count` pictures are changed, `[7,count]`: scale, angle (radians), mirror (±1), shift
    right and down (of half a side), contrast, brightness (of half the range)."""

    def uniform(reach: float) -> Tensor:
        return (torch.rand(count, generator=random) * 2.0 - 1.0) * reach

    scale, angle = 1.0 + uniform(0.08), uniform(0.07)
    mirror = torch.sign(uniform(1.0))
    shifts = uniform(0.08), uniform(0.08)
    contrast, brightness = 1.0 + uniform(0.1), uniform(0.1)
    return torch.stack([scale, angle, mirror, *shifts, contrast, brightness])


def diversify(images: Tensor, changes: Tensor) -> Tensor:
    """`[N,3,H,W]`, each moved by up to 4 %, resized by up to 8 %, turned by up to 4°, half of them
    mirrored, with brightness and contrast changed by up to 10 %. Differentiable."""
    scale, angle, mirror, right, down, contrast, brightness = changes
    affine = torch.zeros(len(images), 2, 3)
    affine[:, 0, 0], affine[:, 0, 1] = scale * angle.cos() * mirror, -scale * angle.sin()
    affine[:, 1, 0], affine[:, 1, 1] = scale * angle.sin() * mirror, scale * angle.cos()
    affine[:, 0, 2], affine[:, 1, 2] = right, down
    grid = F.affine_grid(affine, list(images.shape), align_corners=False).to(images)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return moved * _as_pictures(contrast, images) + _as_pictures(brightness, images)


def _as_pictures(values: Tensor, images: Tensor) -> Tensor:
    return values.to(images)[:, None, None, None]
