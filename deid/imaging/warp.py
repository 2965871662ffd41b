"""A picture drawn so that its landmarks come to lie at given places: thin plates."""

import cv2
import numpy as np
from numpy.typing import NDArray

from deid.faces.alignment import Points
from deid.pixels import Pixels

GRID = 32
STIFF = 1e-3
"""The ridge, in squared sides: landmarks are off by some pixels themselves."""


def warped(picture: Pixels, landmarks: Points, wanted: Points) -> NDArray[np.float32]:
    """`uint8 [S,S,3]` whose `landmarks [68,2]`, in pixels, are moved to `wanted`; the border stays.

    Bookstein 1989: the map from the new picture to the old one that bends least.
    """
    size = picture.shape[0]
    edge = np.array(
        [[x, y] for x in (0.0, 0.5, 1.0) for y in (0.0, 0.5, 1.0) if (x, y) != (0.5,) * 2]
    )
    to, back = (np.concatenate([points / size, edge]) for points in (wanted, landmarks))
    count = len(to)
    system = np.zeros((count + 3, count + 3))
    system[:count, :count] = _plate(to, to) + STIFF * np.eye(count)
    system[:count, count:] = np.column_stack([np.ones(count), to])
    system[count:, :count] = system[:count, count:].T
    weights = np.linalg.solve(system, np.concatenate([back, np.zeros((3, 2))]))
    y, x = (np.mgrid[0:GRID, 0:GRID] + 0.5) / GRID
    places = np.stack([x.ravel(), y.ravel()], axis=1)
    field = _plate(places, to) @ weights[:count]
    field += np.column_stack([np.ones(len(places)), places]) @ weights[count:]
    off = (field - places).reshape(GRID, GRID, 2).astype(np.float32)
    fine = cv2.resize(off, (size, size), interpolation=cv2.INTER_CUBIC) * size
    at = np.arange(size, dtype=np.float32)
    out = cv2.remap(
        picture.astype(np.float32),
        at[None] + fine[..., 0],
        at[:, None] + fine[..., 1],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(out, np.float32)


def _plate(a: Points, b: Points) -> Points:
    """r² log r between places `[A,2]` and `[B,2]`."""
    square = np.square(a[:, None] - b[None]).sum(axis=-1)
    return np.asarray(0.5 * square * np.log(np.maximum(square, 1e-12)))
