"""Boxes that overlap: which of them are the same face, and what is kept of each face.

All boxes are `float32 [K,4]` x0 y0 x1 y1. The work is one array operation for each box kept, over
the boxes still in question, never a comparison of all pairs. NumPy and not `torchvision.ops`: what
runs on every photograph may not wait for torchvision, whose import takes seconds of processor time;
a test holds `iou` and `suppress` to `torchvision.ops`.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]
Indices = NDArray[np.int64]
Same = Callable[[Boxes, Boxes], NDArray[np.bool_]]
"""A better box `[4]` and others `[M,4]` → which of them are the same face `[M]`."""


def areas(boxes: Boxes) -> NDArray[np.float32]:
    """`[...,4]` → `[...]`, never negative."""
    return np.asarray((boxes[..., 2:] - boxes[..., :2]).clip(0).prod(-1), np.float32)


def intersection(box: Boxes, others: Boxes) -> NDArray[np.float32]:
    """Area that `[4]` shares with each of `[M,4]`."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    return np.asarray((high - low).clip(0).prod(1), np.float32)


def iou(box: Boxes, others: Boxes) -> NDArray[np.float32]:
    """Intersection over union of `[4]` with each of `[M,4]`."""
    shared = intersection(box, others)
    union = areas(box) + areas(others) - shared
    return np.asarray(shared / np.maximum(union, 1e-9), np.float32)


def shared_part(box: Boxes, others: Boxes) -> NDArray[np.float32]:
    """Of the smaller of `[4]` and each of `[M,4]`, the share that lies in the other."""
    smaller = np.minimum(areas(box), areas(others))
    return np.asarray(intersection(box, others) / np.maximum(smaller, 1e-9), np.float32)


def clusters(boxes: Boxes, scores: NDArray[np.float32], same: Same) -> list[Indices]:
    """Boxes grouped by face, best group first; each begins with its best box."""
    left = np.argsort(-scores, kind="stable")
    groups = []
    while len(left):
        best, rest = left[0], left[1:]
        alike = same(boxes[best], boxes[rest])
        groups.append(np.concatenate([left[:1], rest[alike]]))
        left = rest[~alike]
    return groups


def suppress(boxes: Boxes, scores: NDArray[np.float32], limit: float, part: float = 1.0) -> Indices:
    """Non-maximum suppression: the boxes that no better one overlaps, best first.

    Boxes overlap if their intersection over union exceeds `limit`, or if more than `part` of the
    smaller one is shared: half a face is no second face.
    """
    if part >= 1.0:  # OpenCV does the same, for scores above 0, ten times as fast or more
        whole = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
        kept = cv2.dnn.NMSBoxes(whole.tolist(), scores.tolist(), 0.0, limit)
        return np.asarray(kept, np.int64).reshape(-1)

    def same(box: Boxes, others: Boxes) -> NDArray[np.bool_]:
        return np.asarray((iou(box, others) > limit) | (shared_part(box, others) > part))

    return np.array([group[0] for group in clusters(boxes, scores, same)], np.int64)
