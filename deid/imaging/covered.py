"""Whether something is before the lower half of a face, such as a mask.

A new face is matched to the skin of the old one's cheeks. Where these are not seen, it is matched
to the forehead: else it would take the color of what is before them.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from deid.imaging.blend import Picture

GREENISH, BLUISH = -6.0, -3.0
"""a and b in Lab below which no skin in white light is."""

COLORFUL, TIMES = 8.0, 2.5
"""Chroma in Lab that skin between the eyes has, and so many times that of what hides the cheeks,
where that is white, gray or black."""

NEAR = 12.0
"""A distance in a and b: beyond, it is not skin on the forehead, but hair that hangs over it."""


def is_covered(
    picture: Picture,
    cheeks: NDArray[np.uint8],
    bridge: NDArray[np.uint8],
    forehead: NDArray[np.uint8],
) -> bool:
    """Whether the `cheeks [h,w]` of a face in `float32 [h,w,3]`, levels of 256, have not the color
    of skin, and the nose's `bridge` and the `forehead` have."""
    parts = (cheeks, bridge, forehead)
    if not all(part.any() for part in parts):
        return False
    lab = cv2.cvtColor((picture / 255).clip(0, 1).astype(np.float32), cv2.COLOR_RGB2LAB)
    hidden, skin, above = (np.median(lab[part > 0], axis=0)[1:] for part in parts)
    strange = hidden[0] < GREENISH or hidden[1] < BLUISH
    plain = np.hypot(*skin) > max(COLORFUL, TIMES * np.hypot(*hidden))
    seen = skin[1] > 0 and np.hypot(*(above - skin)) < NEAR
    return bool(seen and (strange or plain))
