"""A group of people from portraits of one each: side by side, one background out of focus."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from deid.pixels import Pixels

OVERLAP = 0.16  # of a portrait's side, into each neighbor's

Plane = NDArray[np.float32]


def compose(portraits: Sequence[Pixels]) -> Pixels:
    """Square portraits `uint8 [side,side,3]` of one background each, as one picture: all stand on
    its lower edge, and the backgrounds are drawn out and run into each other."""
    sides = [len(portrait) for portrait in portraits]
    steps = [round(side * (1 - OVERLAP)) for side in sides]
    height, width = max(sides), sum(steps) + round(sides[-1] * OVERLAP)
    canvas, whole = np.zeros((height, width, 3), np.float32), np.zeros((1, width, 1), np.float32)
    for portrait, left in zip(portraits, np.cumsum([0, *steps[:-1]]), strict=True):
        share = _share(int(left), len(portrait), width)
        canvas += share * _drawn_out(portrait, int(left), height, width)
        whole += share
    mixed: Pixels = (canvas / whole).round().clip(0, 255).astype(np.uint8)
    return mixed


def _share(left: int, side: int, width: int) -> Plane:
    """How much of each column `[1,width,1]` is a portrait's: all of its own, less of what it
    shares, next to nothing elsewhere."""
    inside = np.minimum(np.arange(width) - left, left + side - np.arange(width)) / (side * OVERLAP)
    ramp = np.clip(inside, 0, 1).astype(np.float32)
    return (ramp * ramp * (3 - 2 * ramp) + 1e-6)[None, :, None]


def _drawn_out(portrait: Pixels, left: int, height: int, width: int) -> Plane:
    """The portrait in its place on a canvas that its rims fill, out of focus; above it, where hair
    may reach its rim, the colors of its upper corners."""
    side, margin = len(portrait), len(portrait) // 24
    around = (left, max(width - left - side, 0)), (0, 0)
    padded = np.pad(portrait, ((height - side, 0), *around), mode="edge")[:, :width]
    corners = portrait[:margin, :margin].mean((0, 1)), portrait[:margin, -margin:].mean((0, 1))
    above = np.linspace(*corners, side)[None]
    rims = padded.astype(np.float32)
    rims[: height - side + margin] = np.pad(above, ((0, 0), *around), mode="edge")[:, :width]
    soft = cv2.GaussianBlur(rims, (0, 0), side / 16)
    inner = np.zeros((height, width), np.float32)
    top = height - side + margin if height > side else 0
    inner[top:, left + margin : left + side - margin] = 1
    sharp = cv2.GaussianBlur(inner, (0, 0), margin / 2)[..., None]
    drawn: Plane = sharp * padded + (1 - sharp) * soft
    return drawn
