"""A made face fills the outline of the face whose place it takes.

A generator draws a whole head before a background of its own. Where that head is narrower than the
old one, what it has behind it would show as a fringe inside the old one's mask. So the new face is
stretched away from its middle, in each direction in which it falls short, until its jaw and
forehead lie where the old ones were. Where it is wider, the mask cuts it off in the skin.

The outline tells something of a person. In whole runs over the mini world `swap` held at its first
try for 152 of 181 faces, before there was a fit for 161 of 182; on the same made faces 158 held
with it and 160 without, and of as many adversarial ones 148 and 157. So only methods that change a
head's shape are fitted, and never more than needed; the gate catches the rest.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from deid.faces.alignment import Points, five_points
from deid.pixels import Pixels

FOREHEAD = 0.65  # of the height from nose tip to brows: how far a face goes on above its brows
INWARDS = 0.93  # of the way from its middle to its jaw, a new face is surely skin
LEAST = 0.7  # of the way to the old outline that must be there; below a half the map would fold
DIRECTIONS = 128
FINE = 256  # side to which a smaller crop is enlarged before, so that it loses nothing


def outline_of_landmarks(landmarks: Points) -> Points:
    """The jaw of 68 landmarks of an upright crop, closed over the forehead: `[27,2]`."""
    brows = landmarks[17:27]
    above = brows.copy()
    above[:, 1] -= FOREHEAD * (landmarks[30, 1] - brows[:, 1].mean())
    return np.concatenate([landmarks[:17], above[::-1]])


def fit_outline(crop: Pixels, landmarks: Points, outline: Points) -> Pixels:
    """Stretch the face at `landmarks` `[68,2]` of `uint8 [S,S,3]` to fill `outline` `[27,2]`.

    Both in crop pixels. The same square comes back, finer where S is small: `uint8 [F,F,3]`.
    """
    size = crop.shape[0]
    middle = five_points(landmarks).mean(axis=0)
    wanted = _reach(outline - middle)
    taken = outline_of_landmarks(landmarks) - middle
    taken[:17] *= INWARDS
    there = _reach(taken)
    stretch = np.clip(there / wanted, LEAST, 1.0)
    factor = max(1, round(FINE / size))
    fine = size * factor
    y, x = (np.mgrid[0:fine, 0:fine] + 0.5) / factor
    x, y = x - middle[0], y - middle[1]
    angle = np.arctan2(y, x)
    share = np.minimum(1.0, np.hypot(x, y) / _towards(angle, wanted))
    scale = 1.0 + (_towards(angle, stretch) - 1.0) * share
    across, down = middle[0] + scale * x, middle[1] + scale * y
    out = cv2.remap(
        cv2.resize(crop, (fine, fine), interpolation=cv2.INTER_CUBIC),
        (across * factor - 0.5).astype(np.float32),  # OpenCV has pixel centers at integers
        (down * factor - 0.5).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(out, dtype=np.uint8)


def _reach(outline: Points) -> NDArray[np.float64]:
    """How far a closed outline `[K,2]` around the origin reaches in each of the directions."""
    closed = np.concatenate([outline, outline[:1]])
    steps = np.linspace(0, len(outline), 8 * len(outline), endpoint=False)
    x, y = (np.interp(steps, np.arange(len(closed)), closed[:, axis]) for axis in (0, 1))
    angles = np.linspace(-np.pi, np.pi, DIRECTIONS, endpoint=False)
    reach = np.interp(angles, np.arctan2(y, x), np.hypot(x, y), period=2 * np.pi)
    kernel = np.hanning(11)[1:-1] / np.hanning(11).sum()  # no creases along single directions
    around = np.concatenate([reach[-4:], reach, reach[:4]])
    return np.maximum(np.convolve(around, kernel, mode="valid"), 1e-3)


def _towards(angle: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A value of each direction, at any angles."""
    angles = np.linspace(-np.pi, np.pi, DIRECTIONS, endpoint=False)
    return np.asarray(np.interp(angle, angles, values, period=2 * np.pi))
