"""What a stranger sees at once on a drawn face, told by simple tests of its pixels.

Looked at on 200 drawn faces of 128 px: above `MAYBE` are 20 of 21 with glasses and two without,
above `GLASSES` 16 and none; above `FRINGE` nearly all whose hair reaches their brows. On 200
photographs deep-set eyes and bushy brows look like a bridge up to 0.28, so that only what is above
`SURELY` counts there: four of about nine with glasses, none without.
"""

import cv2
import numpy as np

from deid.faces.alignment import Points, apply_affine
from deid.imaging.skin import find_skin, hull_mask
from deid.pixels import Pixels

SIDE = 192  # of the upright crop that is looked at
EYES = np.array([[0.36, 0.45], [0.64, 0.45]])  # where it has them
MAYBE, GLASSES, SURELY = 0.12, 0.25, 0.4
"""Depths of a dark bar across the nose, of the lightness around it, at which a drawn face may wear
glasses, does, and a photographed one does."""

FRINGE = 0.06  # share of a forehead, just over the brows, that is no skin
BAND = (0.12, 0.3)  # of the height from nose tip to brows: so far above them that is looked at


def bridge(crop: Pixels, landmarks: Points) -> float:
    """How dark a bar crosses the nose between the eyes of the face at `landmarks [68,2]` in
    `uint8 [S,S,3]`, of the lightness there: that of glasses, 0 to 1."""
    upright, points = _upright(crop, landmarks)
    gray = cv2.GaussianBlur(cv2.cvtColor(upright, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1)
    (left, right), gap = points[[39, 42], 0], points[42, 0] - points[39, 0]
    x0, x1 = round(left + 0.28 * gap), round(right - 0.28 * gap) + 1
    y0, y1 = round(points[[21, 22], 1].mean()), round(1.5 * points[28, 1] - 0.5 * points[27, 1])
    bar = gray[max(0, y0) : y1, max(0, x0) : x1]
    if min(bar.shape) < 3:
        return 0.0
    down = bar.mean(axis=1, keepdims=True)
    narrow = np.ones((9, 1), np.uint8)  # wider is the shade of brows
    return float(cv2.morphologyEx(down, cv2.MORPH_BLACKHAT, narrow).max() / max(10.0, down.mean()))


def fringe(crop: Pixels, landmarks: Points) -> float:
    """The share of the forehead just over the brows that is not of the cheeks' color, 0 to 1."""
    upright, points = _upright(crop, landmarks)
    up = np.array([0.0, points[30, 1] - points[17:27, 1].mean()])
    middle = points[27:36].mean(axis=0)
    cheeks = [points[[40, 41, 46, 47, 31, 35]], (points[[2, 3, 13, 14]] + middle) / 2]
    skin = find_skin(upright.astype(np.float32), hull_mask(np.concatenate(cheeks), SIDE))
    above = hull_mask(np.concatenate([points[18:26] - share * up for share in BAND]), SIDE)
    if skin is None or not above.any():
        return 0.0
    return float(((1 - skin.likeness) * above).sum() / above.sum())


def _upright(crop: Pixels, landmarks: Points) -> tuple[Pixels, Points]:
    """The face with its eyes at `EYES` in a crop of `SIDE`, and its landmarks there."""
    here = [complex(*landmarks[eye].mean(axis=0)) for eye in (slice(36, 42), slice(42, 48))]
    there = [complex(*(SIDE * place)) for place in EYES]
    turn = (there[1] - there[0]) / (here[1] - here[0] or 1.0)
    shift = there[0] - turn * here[0]
    affine = np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
    centers = affine.copy()  # OpenCV has pixel centers at integers
    centers[:, 2] += affine[:, :2].sum(axis=1) * 0.5 - 0.5
    upright = cv2.warpAffine(
        crop, centers, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(upright, dtype=np.uint8), apply_affine(affine, landmarks)
