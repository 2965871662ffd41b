"""Adversarial glasses (Sharif, Bhagavatula, Bauer and Reiter 2016): a frame's colors are chosen so
that a recognizer does not know who wears it ("dodging").

    argmin_r  −softmaxloss(f(x + r), c_x) + κ1 · TV(r) + κ2 · NPS(r)

Departures: the cosine with the person stands for the softmax loss of a closed set of people
(`overlay`); the frame is drawn around the eyes' landmarks, where theirs was a picture of a frame;
NPS, how unlike a printer's colors they are, is left out, since nothing is printed. Digital only.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from deid.faces.alignment import Points

LENS = (0.44, 0.34)
"""Half axes of the middle of a frame's rim, in distances of the pupils."""

RIM = 0.17  # how wide the rim is, in the same unit
TEMPLE = (0, 16)
"""Landmarks by the ears, to which the frame reaches."""


def frame(landmarks: Points, height: int, width: int) -> NDArray[np.uint8]:
    """The region of the frame, 0 to 255 `[H,W]`."""
    eyes = landmarks[36:42].mean(axis=0), landmarks[42:48].mean(axis=0)
    along = eyes[1] - eyes[0]
    apart = max(float(np.linalg.norm(along)), 1e-3)
    angle, thick = float(np.degrees(np.arctan2(along[1], along[0]))), max(1, round(RIM * apart))
    drawn = np.zeros((height, width), np.uint8)
    half = tuple(max(16, round(axis * apart * 16)) for axis in LENS)
    for eye in eyes:
        cv2.ellipse(drawn, _at(eye), half, angle, 0, 360, 255, thick, cv2.LINE_AA, shift=4)
    unit = along / apart
    ends = (eyes[0] - LENS[0] * apart * unit, eyes[1] + LENS[0] * apart * unit)
    for end, ear in zip(ends, TEMPLE, strict=True):
        cv2.line(drawn, _at(end), _at(landmarks[ear]), 255, thick, cv2.LINE_AA, shift=4)
    inner = (eyes[0] + LENS[0] * apart * unit, eyes[1] - LENS[0] * apart * unit)
    cv2.line(drawn, _at(inner[0]), _at(inner[1]), 255, thick, cv2.LINE_AA, shift=4)
    return drawn


def _at(point: Points) -> tuple[int, int]:
    """A place in sixteenths of a pixel."""
    return round(point[0] * 16), round(point[1] * 16)
