"""FFHQ alignment: the similarity that puts eyes and mouth where StyleGAN expects them.

Pure geometry on points; sampling of pixels belongs to whoever has them. Source: the cropping
rule of the FFHQ dataset (Karras et al. 2019, appendix A).
"""

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.floating]


INNER = slice(17, 68)
"""The 51 inner-face landmarks: 68 less the 17 of the jaw. The paper says 52."""


def five_points(landmarks: Points) -> Points:
    """68 landmarks `[...,68,2]` → `[...,5,2]`: eyes, nose tip, mouth corners; left ones first."""
    return np.stack(
        [
            landmarks[..., 36:42, :].mean(axis=-2),
            landmarks[..., 42:48, :].mean(axis=-2),
            landmarks[..., 30, :],
            landmarks[..., 48, :],
            landmarks[..., 54, :],
        ],
        axis=-2,
    )


def ffhq_square(points: Points) -> tuple[Points, Points]:
    """The FFHQ crop of each face: center `[...,2]` and half-axis `x` `[...,2]`, in picture pixels.

    `points` are five points as given by `five_points`. The square's corners are
    `center ± x ± y`, with `y` the half-axis `x` turned by a quarter, `(-x[1], x[0])`.
    """
    left, right = points[..., 0, :], points[..., 1, :]
    eyes, mouth = (left + right) / 2, (points[..., 3, :] + points[..., 4, :]) / 2
    across, down = right - left, mouth - eyes
    axis = across - np.stack([-down[..., 1], down[..., 0]], axis=-1)
    axis = axis / np.maximum(np.linalg.norm(axis, axis=-1, keepdims=True), 1e-9)
    span = np.maximum(np.linalg.norm(across, axis=-1) * 2.0, np.linalg.norm(down, axis=-1) * 1.8)
    return eyes + down * 0.1, axis * span[..., None]


def crop_to_picture(points: Points, size: int) -> Points:
    """`[...,2,3]` affine from crop pixels (`size` × `size`) to picture pixels, for `five_points`.

    Pixel centers are at integers + 0.5 in both frames: `picture = A @ (x, y, 1)`.
    """
    center, x = ffhq_square(points)
    y = np.stack([-x[..., 1], x[..., 0]], axis=-1)
    scale = 2.0 / size
    return np.stack([x * scale, y * scale, center - x - y], axis=-1)


def apply_affine(affine: Points, points: Points) -> Points:
    """Map `points` `[...,K,2]` by `affine` `[...,2,3]`."""
    return points @ np.swapaxes(affine[..., :2], -1, -2) + affine[..., None, :, 2]


def invert_affine(affine: Points) -> Points:
    """The inverse of `[...,2,3]` affine maps."""
    linear = np.linalg.inv(affine[..., :2])
    return np.concatenate([linear, -linear @ affine[..., 2:]], axis=-1)
