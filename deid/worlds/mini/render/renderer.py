"""The renderer of the mini world: numbers in, aligned picture and true landmarks out.

Parallel rays through the pixels of the FFHQ crop, which follows from the projected landmarks; so
there is nothing to resample. It is a deterministic, mostly smooth function of the parameters.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deid.faces.alignment import apply_affine, crop_to_picture, five_points, invert_affine
from deid.worlds.mini.render.person import Drawing, Person, backdrop, person_of

_TILE = 8  # people drawn at a time: small enough for the cache, and always as many


@dataclass(frozen=True)
class Render:
    """A batch of pictures."""

    images: Tensor  # [N,3,S,S] in [-1, 1]
    landmarks: Tensor  # [N,68,2], pixels of the picture, centers at + 0.5
    alpha: Tensor  # [N,S,S], 1: person, 0: backdrop


@torch.no_grad()
def render(parameters: Tensor, size: int = 64) -> Render:
    """FFHQ-aligned faces `[N,3,size,size]` of the people in `parameters` `[N,P]`."""
    count = len(parameters)
    padded = parameters[torch.arange(-(-count // _TILE) * _TILE).clamp_max(max(count - 1, 0))]
    tiles = (
        [_aligned(tile, size) for tile in padded.view(-1, _TILE, padded.shape[1])] if count else []
    )
    if not tiles:
        empty = torch.zeros(0, 3, size, size)
        return Render(empty, torch.zeros(0, 68, 2), empty[:, 0])
    images, landmarks, alpha = (torch.cat(part)[:count] for part in zip(*tiles, strict=True))
    return Render(images, landmarks, alpha)


def _aligned(parameters: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    person = person_of(parameters)
    points = person.landmarks().double().numpy()
    to_camera = crop_to_picture(five_points(points), size)
    in_crop = apply_affine(invert_affine(to_camera), points)
    images, alpha = draw(parameters, person, to_camera, (size, size))
    return images, torch.from_numpy(in_crop).float(), alpha


def draw(
    parameters: Tensor,
    person: Person,
    to_camera: NDArray[np.floating],
    size: tuple[int, int],
    behind: Tensor | None = None,
    garment_only: bool = False,
) -> tuple[Tensor, Tensor]:
    """Pictures `[N,3,H,W]` in [-1, 1] and mattes `[N,H,W]` through affine maps `[N,2,3]`.

    `to_camera` maps picture pixels to camera coordinates; `behind` `[N,3,H,W]` in [-1, 1] replaces
    the backdrop of the parameters. `garment_only` leaves out everything above the shoulders.
    """
    height, width = size
    affine = torch.from_numpy(np.asarray(to_camera, np.float32))
    row, column = torch.meshgrid(
        torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij"
    )
    x, y = column.reshape(1, -1), row.reshape(1, -1)
    u, v = (affine[:, i, :1] * x + affine[:, i, 1:2] * y + affine[:, i, 2:] for i in range(2))
    pixel = affine[:, :, 0].norm(dim=1, keepdim=True)
    if behind is None:
        canvas = backdrop(parameters, x * (2 / width) - 1, y * (2 / height) - 1)
    else:
        canvas = ((behind + 1) / 2).square().flatten(2)
    drawing = Drawing(person, u, v, pixel, canvas)
    canvas, alpha = drawing.garment() if garment_only else drawing.all()
    images = canvas.clamp(0, 1).sqrt().mul(2).sub(1)
    return images.view(-1, 3, height, width), alpha.view(-1, height, width)
