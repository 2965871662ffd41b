"""Boxes that overlap: which of them are the same face, and what is kept of each face.

All boxes are `float32 [K,4]` x0 y0 x1 y1. The work is one array operation for each box kept, over
the boxes still in question, never a comparison of all pairs.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]
Indices = NDArray[np.int64]
Same = Callable[[Boxes, Boxes], NDArray[np.bool_]]
"""A better box `[4]` and others `[M,4]` → which of them are the same face `[M]`."""


def areas(boxes: Boxes) -> NDArray[np.float32]:
    """`[...,4]` → `[...]`, never negative."""
    return np.asarray((boxes[..., 2:] - boxes[..., :2]).clip(0).prod(-1), np.float32)


def common(box: Boxes, others: Boxes) -> NDArray[np.float32]:
    """Area that `[4]` shares with each of `[M,4]`."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    return np.asarray((high - low).clip(0).prod(1), np.float32)


def overlap(box: Boxes, others: Boxes) -> NDArray[np.float32]:
    """Intersection over union of `[4]` with each of `[M,4]`."""
    shared = common(box, others)
    union = areas(box) + areas(others) - shared
    return np.asarray(shared / np.maximum(union, 1e-9), np.float32)


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


def suppress(boxes: Boxes, scores: NDArray[np.float32], limit: float) -> Indices:
    """Which boxes no better one overlaps by more than `limit` (intersection over union)."""
    groups = clusters(boxes, scores, lambda box, others: overlap(box, others) > limit)
    return np.array([group[0] for group in groups], np.int64)
