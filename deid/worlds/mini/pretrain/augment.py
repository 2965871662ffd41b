"""What happens to a picture on its way to a network: alignment, light, blur, noise, compression.

The networks judge generated and detector-aligned faces, which are softer and less well placed than
renders; they must not mind.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from deid.pixels import Pixels, to_tensor


@dataclass(frozen=True)
class Jitter:
    """The largest shift (pixels of 64), change of scale and roll (degrees) of the alignment."""

    shift: float = 2.0
    scale: float = 0.05
    roll: float = 3.0


def augment(
    pixels: Pixels, jitter: Jitter, rng: np.random.Generator
) -> tuple[Tensor, NDArray[np.float32]]:
    """`uint8 [N,S,S,3]` → `float32 [N,3,S,S]` in [-1, 1], and the `[N,2,3]` affine maps of points.

    The maps take pixels of the input to pixels of the output (`deid.faces.alignment.apply_affine`).
    """
    images = to_tensor(_compress(pixels, rng))
    inverse = _placements(len(pixels), pixels.shape[1], jitter, rng)
    images = _warp(images, inverse)
    images = _soften(images, rng)
    linear = np.linalg.inv(inverse[:, :, :2])
    forward = np.concatenate([linear, -linear @ inverse[:, :, 2:]], axis=2)
    return _shade(images, rng), forward.astype(np.float32)


def _placements(
    count: int, size: int, jitter: Jitter, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Maps from output pixels to input pixels, rotating and scaling about the center."""
    angle = np.deg2rad(rng.uniform(-jitter.roll, jitter.roll, count))
    scale = 1.0 + rng.uniform(-jitter.scale, jitter.scale, count)
    shift = rng.uniform(-jitter.shift, jitter.shift, (count, 2)) * size / 64
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.stack([np.stack([cosine, -sine], -1), np.stack([sine, cosine], -1)], 1)
    center = np.full(2, size / 2)
    offset = center + shift - linear @ center
    return np.concatenate([linear, offset[:, :, None]], axis=2)


def _warp(images: Tensor, inverse: NDArray[np.float64]) -> Tensor:
    """Sample `images` at the mapped pixels, bilinear, border repeated."""
    size = images.shape[-1]
    theta = inverse.copy()
    # torch's coordinates run over [-1, 1] from edge to edge
    theta[:, :, 2] = (inverse[:, :, :2].sum(2) * size / 2 + inverse[:, :, 2]) * 2 / size - 1
    grid = F.affine_grid(torch.from_numpy(theta).float(), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _soften(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Blur some of the pictures, by a small Gaussian or by a trip through half the size."""
    kind = rng.random(len(images))
    smooth = torch.from_numpy(kind < 0.25)
    small = torch.from_numpy((kind >= 0.25) & (kind < 0.35))
    if smooth.any():
        taps = _gaussian(rng.uniform(0.4, 1.1))
        images = images.clone()
        images[smooth] = _separable(images[smooth], taps)
    if small.any():
        half = F.interpolate(images[small], scale_factor=0.5, mode="bilinear", antialias=True)
        images = images.clone()
        images[small] = F.interpolate(half, size=images.shape[-2:], mode="bilinear")
    return images


def _gaussian(sigma: float) -> Tensor:
    taps = torch.exp(-torch.arange(-2, 3).float().square() / (2 * sigma**2))
    return taps / taps.sum()


def _separable(images: Tensor, taps: Tensor) -> Tensor:
    x = F.pad(images, (2, 2, 2, 2), mode="replicate").flatten(0, 1)[:, None]
    x = F.conv2d(F.conv2d(x, taps.view(1, 1, 1, 5)), taps.view(1, 1, 5, 1))
    return x.view(images.shape)


def _shade(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Contrast, brightness, a tint, and noise on half of the pictures."""
    count = len(images)
    contrast = rng.uniform(0.85, 1.15, (count, 1, 1, 1))
    brightness = rng.uniform(-0.12, 0.12, (count, 1, 1, 1)) + rng.uniform(
        -0.04, 0.04, (count, 3, 1, 1)
    )
    sigma = rng.uniform(0.0, 0.06, (count, 1, 1, 1)) * (rng.random((count, 1, 1, 1)) < 0.5)
    noise = rng.standard_normal(images.shape, np.float32)
    as_tensor = [torch.from_numpy(np.asarray(v, np.float32)) for v in (contrast, brightness, sigma)]
    shaded = images * as_tensor[0] + as_tensor[1] + torch.from_numpy(noise) * as_tensor[2]
    return shaded.clamp_(-1, 1)


def _compress(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """A fifth of the pictures go through JPEG."""
    result = pixels.copy()
    for i in np.flatnonzero(rng.random(len(pixels)) < 0.2):
        quality = int(rng.integers(50, 95))
        _, code = cv2.imencode(".jpg", result[i], [cv2.IMWRITE_JPEG_QUALITY, quality])
        result[i] = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))
    return result
