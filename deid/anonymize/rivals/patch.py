"""An adversarial patch (Brown, Mané, Roy, Abadi and Gilmer 2017), on a cheek.

    p = argmax_p E_{x,T,L}[log P(ŷ | A(p, x, L, T))]

A(p, x, L, T) lays p over x at place L under a change T. Departures: a recognizer has no classes, so
the cosine with the person falls instead (`overlay`); the patch is made for the one face, not for
all pictures, and lies at one place. Digital only.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from deid.faces.alignment import Points

RADIUS = 0.42
"""In distances of the pupils: about a tenth of the face."""

CHEEK = (31, 48, 2, 4)
"""Landmarks around the middle of the cheek at the picture's left: nostril, mouth, jaw."""


def disk(landmarks: Points, height: int, width: int) -> NDArray[np.uint8]:
    """The region of the patch, 0 to 255 `[H,W]`."""
    eyes = landmarks[36:42].mean(axis=0), landmarks[42:48].mean(axis=0)
    radius = RADIUS * float(np.linalg.norm(eyes[1] - eyes[0]))
    center = landmarks[list(CHEEK)].mean(axis=0)
    drawn = np.zeros((height, width), np.uint8)
    place = tuple(round(value * 16) for value in center)
    cv2.circle(drawn, place, max(16, round(radius * 16)), 255, -1, cv2.LINE_AA, shift=4)
    return drawn
