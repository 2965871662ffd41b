"""A new face with all that is drawn about it: hair, ears, neck and background of its FFHQ square.

Nothing of the person's own picture is left there by which an attacker could know them again. What
lies beyond the square stays, and where that goes on within it (long hair, clothes, a pattern behind
the head) one sees where the square ends. It suits portraits and aligned faces.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from deid.faces.alignment import Points, apply_affine
from deid.imaging.align import Square, Window
from deid.imaging.blend import Picture
from deid.imaging.front import places
from deid.imaging.paste import Region, filled, softened, window_of

SIDES, BELOW = 0.08, 0.04
"""Of its side, over which the square fades at its borders; a chin is near the lower one."""

ENDS = 0.04
"""Of it: where the picture ends so near a border, the square goes on to the picture's edge."""

APART = 0.04
"""Of it, over which it fades towards another face."""

CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
STEPS = 4
"""Places beyond a border at which is looked whether the picture goes on."""


def portrait_region(
    square: Square, hull: Points, others: Sequence[Points], shape: tuple[int, ...]
) -> Region:
    """1 over the square and a face's `hull [M,2]`, falling to 0 at the square's borders and before
    the outlines of `others`, which are left to them."""
    corners = apply_affine(square.to_picture(1), CORNERS)
    margin, apart = int(np.ceil(ENDS * square.side)) + 1, APART * square.side
    window = window_of(np.concatenate([corners, hull]), shape, margin)
    alpha = _within(square, window, shape)
    taken = np.zeros(alpha.shape, np.uint8)
    for other in others:
        taken = np.maximum(taken, filled(other, window)) if _near(other, window) else taken
    if taken.any():
        distance = cv2.distanceTransform(1 - taken, cv2.DIST_L2, 5)
        alpha *= _smooth(np.asarray(distance / max(apart, 1e-3), np.float32))
    own = softened(hull, window, apart).alpha
    return Region(window, np.maximum(alpha, own).astype(np.float32))


def square_outline(square: Square, hull: Points | None) -> Points:
    """Convex hull `[M,2]` of a face's square, and of its own `hull`."""
    corners = apply_affine(square.to_picture(1), CORNERS)
    everything = corners if hull is None else np.concatenate([corners, hull])
    return np.asarray(cv2.convexHull(everything.astype(np.float32))[:, 0], np.float64)


def _near(outline: Points, window: Window) -> bool:
    low, high = outline.min(axis=0), outline.max(axis=0)
    return bool((low < window[2:]).all() and (high > window[:2]).all())


def _smooth(share: Picture) -> Picture:
    share = np.clip(share, 0.0, 1.0)
    return np.asarray(share * share * (3.0 - 2.0 * share), np.float32)


def _within(square: Square, window: Window, shape: tuple[int, ...]) -> Picture:
    """1 within the square, falling to 0 at its borders as far as the picture goes on there."""
    across, down = places(square, window)
    to_picture = square.to_picture(1)
    borders = (
        (across, SIDES, lambda out: (-out, down)),
        (down, SIDES, lambda out: (across, -out)),
        (1.0 - across, SIDES, lambda out: (1.0 + out, down)),
        (1.0 - down, BELOW, lambda out: (across, 1.0 + out)),
    )
    alpha = np.ones((window[3] - window[1], window[2] - window[0]), np.float32)
    for inside, feather, beyond in borders:
        goes_on = np.zeros_like(alpha)
        for step in range(1, STEPS + 1):
            u, v = beyond(ENDS * step / STEPS)
            x, y = (a * u + b * v + c for a, b, c in to_picture)
            goes_on += ((x >= 0) & (x < shape[1]) & (y >= 0) & (y < shape[0])) / np.float32(STEPS)
        alpha *= 1.0 - goes_on * (1.0 - _smooth(inside / feather))
    return alpha
