"""AdvHat (Komkov and Petiushko 2021): a rectangular sticker on the forehead, as on a hat's front.

    min_p  cos(f(x'), f(x)) + λ · TV(p)                       (L_T of the paper, for dodging)

Departures: the sticker is flat and follows the brows' line only, theirs was bent over the hat and
turned in space before it was projected; one picture of the person, not many; momentum's place is
taken by Adam. Digital only.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from deid.faces.alignment import Points

WIDE, HIGH, ABOVE = 1.7, 0.75, 0.15
"""Of the sticker and of the gap between it and the brows, in distances of the pupils."""


def sticker(landmarks: Points, height: int, width: int) -> NDArray[np.uint8]:
    """The region of the sticker, 0 to 255 `[H,W]`."""
    eyes = landmarks[36:42].mean(axis=0), landmarks[42:48].mean(axis=0)
    along = eyes[1] - eyes[0]
    up = np.array([along[1], -along[0]])
    bottom = landmarks[17:27].mean(axis=0) + ABOVE * up
    corners = [
        bottom + side * WIDE / 2 * along + rise * HIGH * up
        for side, rise in ((-1, 0), (1, 0), (1, 1), (-1, 1))
    ]
    drawn = np.zeros((height, width), np.uint8)
    shape = np.round(np.array(corners) * 16).astype(np.int32)
    cv2.fillPoly(drawn, [shape], 255, cv2.LINE_AA, shift=4)
    return drawn
