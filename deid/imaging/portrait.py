"""A new face with all that is drawn about it: hair, ears, neck and background of its FFHQ square.

Nothing of the person's own picture is left there by which an attacker could know them again. What
lies beyond the square stays, and where that goes on within it (long hair, clothes, a pattern behind
the head) one sees where the square ends. It suits portraits and aligned faces.
"""

from collections.abc import Sequence

import numpy as np

from deid.faces.alignment import Points, apply_affine
from deid.imaging.align import Square
from deid.imaging.blend import Picture
from deid.imaging.front import places
from deid.imaging.paste import Region, softened, window_of

BORDERS = {"left": 0.08, "top": 0.08, "right": 0.08, "bottom": 0.04}
"""Of its side, over which the square fades at each of its borders; a chin is near the lower one."""

ENDS = 0.04
"""Of it: where the picture ends so near a border, the square goes on to the picture's edge."""

APART = 0.04
"""Of it, over which it fades towards another face."""

CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


def portrait_region(
    square: Square, hull: Points, others: Sequence[Points], shape: tuple[int, ...]
) -> Region:
    """1 over the square and a face's `hull [M,2]`, falling to 0 at the square's borders and before
    the hulls of `others`, whose faces are left to them."""
    corners = apply_affine(square.to_picture(1), CORNERS)
    margin = int(np.ceil(ENDS * square.side)) + 1
    window = window_of(np.concatenate([corners, hull]), shape, margin)
    alpha = _within(square, window, shape)
    for other in others:
        alpha *= 1.0 - softened(other, window, APART * square.side).alpha
    own = softened(hull, window, APART * square.side).alpha
    return Region(window, np.maximum(alpha, own).astype(np.float32))


def _within(square: Square, window: tuple[int, int, int, int], shape: tuple[int, ...]) -> Picture:
    """1 within the square, falling to 0 at those of its borders at which the picture goes on."""
    across, down = places(square, window)
    inside = {"left": across, "top": down, "right": 1.0 - across, "bottom": 1.0 - down}
    beyond = {
        "left": (-ENDS, 0.5),
        "top": (0.5, -ENDS),
        "right": (1.0 + ENDS, 0.5),
        "bottom": (0.5, 1.0 + ENDS),
    }
    alpha = np.ones(np.broadcast_shapes(across.shape, down.shape))
    for border, feather in BORDERS.items():
        x, y = apply_affine(square.to_picture(1), np.array([beyond[border]]))[0]
        if 0 <= x < shape[1] and 0 <= y < shape[0]:
            share = np.clip(inside[border] / feather, 0.0, 1.0)
            alpha = alpha * share * share * (3.0 - 2.0 * share)
    return alpha.astype(np.float32)
