"""A made face takes the pose and expression of the one whose place it takes, by a smooth warp.

What a mapping network draws follows a person's landmarks only roughly. Of both faces they are
known, so the made one is turned, shifted and scaled onto the old one in three dimensions (of a
usual face's depth), and its mouth is moved and opened as far as the old one. How brows, nose, eyes
and jaw lie beside that is not followed: by that a person is known. How far a landmark moves is
bounded, and so is how much of a face is stretched. A mouth that is drawn shut cannot be pulled
open: its lips would become tongues; it only takes its place.

Of 200 portraits MobileFace finds 0.5 % again by the face as it is drawn (chance 0.5 %), as many
where it is shifted, turned and scaled, 2.5 % where it is turned in three dimensions, 2 % with mouth
and half of the eyes, 3.5 % with mouth and eyes, and 6 % where all landmarks are followed.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from deid.faces.alignment import INNER, Points
from deid.faces.head_turn import DEPTH, RIDGE, WEIGHTS
from deid.pixels import Pixels

MOST = (
    0.15  # of the distance of the eyes' outer corners, that a landmark moves beside the similarity
)
REACH = 0.3  # of it: standard deviation of the field around a landmark
STIFF = (0.1, 0.3, 1.0, 3.0, 10.0)  # the ridge; a stiffer field follows less, and folds less
OPENED = (1.0, 0.5, 0.25, 0.0)  # shares of how far a mouth is opened or shut
LEAST = 0.6  # of an area that comes from so much of the made face: below, a stretch shows
GRID = 48
MOUTH = slice(48, 68)
SHARES = (0.0, 0.0, 0.0, 0.0, 1.0)
"""How far jaw, brows, nose, eyes and mouth are followed beside the pose."""

PARTS = (17, 10, 9, 12, 20)


@dataclass(frozen=True)
class _Warp:
    """From a place `p` of the new crop to that of the made one: `turn·p + shift`, in complex
    numbers, and a field of Gaussians around `centers [68,2]`."""

    turn: complex
    shift: complex
    centers: Points
    weights: Points
    reach: float

    def field(self, places: Points) -> Points:
        """`[K,2]` at places `[K,2]`."""
        return _kernel(places, self.centers, self.reach) @ self.weights

    def back(self, points: Points) -> Points:
        """Where points `[K,2]` of the made crop come to lie."""
        made, there = _complex(points), points
        for _ in range(4):
            off = _complex(self.field(there))
            there = _pairs((made - off - self.shift) / self.turn)
        return there


def fit_landmarks(crop: Pixels, landmarks: Points, wanted: Points) -> tuple[Pixels, Points]:
    """Warp `uint8 [S,S,3]`, whose face has `landmarks` `[68,2]`, towards those `wanted`, both in
    its pixels: the same square, and where its landmarks are now."""
    warp = _warp(landmarks, wanted)
    size = crop.shape[0]
    x = np.arange(size, dtype=np.float32)[None] + 0.5
    off = cv2.resize(_on_grid(warp, size), (size, size), interpolation=cv2.INTER_CUBIC) - 0.5
    a, b, c = warp.turn.real, warp.turn.imag, warp.shift  # OpenCV has pixel centers at integers
    across = np.float32(a) * x - np.float32(b) * x.T + np.float32(c.real) + off[..., 0]
    down = np.float32(b) * x + np.float32(a) * x.T + np.float32(c.imag) + off[..., 1]
    border = cv2.BORDER_REPLICATE
    out = cv2.remap(crop, across, down, cv2.INTER_CUBIC, borderMode=border)
    return np.asarray(out, dtype=np.uint8), warp.back(landmarks)


def _warp(landmarks: Points, wanted: Points) -> _Warp:
    """The one that follows most without a stretch that would show."""
    turn, shift = _similarity(_complex(landmarks[INNER]), _complex(wanted[INNER]))
    eyes = max(float(np.linalg.norm(wanted[36] - wanted[45])), 1e-3)
    placed = _pairs(turn * _complex(landmarks) + shift)
    posed = _posed(placed, wanted, eyes)
    goal = posed + np.repeat(SHARES, PARTS)[:, None] * (wanted - posed)
    off = placed - goal
    opening = np.zeros_like(off)
    opening[MOUTH] = off[MOUTH] - _along(goal[MOUTH], off[MOUTH])
    kernel = _kernel(goal, goal, REACH * eyes)
    for share, ridge in [(s, STIFF[0]) for s in OPENED] + [(0.0, r) for r in STIFF[1:]]:
        some = off - (1.0 - share) * opening
        far = np.linalg.norm(some, axis=1, keepdims=True)
        some = some * np.minimum(1.0, MOST * eyes / np.maximum(far, 1e-9))
        weights = np.linalg.solve(kernel + ridge * np.eye(len(goal)), some)
        warp = _Warp(1 / turn, -shift / turn, goal, _pairs(_complex(weights) / turn), REACH * eyes)
        if _smallest(warp, goal) >= LEAST:
            return warp
    return _Warp(1 / turn, -shift / turn, goal, np.zeros_like(off), REACH * eyes)


def _posed(landmarks: Points, wanted: Points, eyes: float) -> Points:
    """`landmarks [68,2]` as they are seen when a face of usual depth turns to where `wanted` are:
    the affine map from three dimensions that fits best."""
    space = np.column_stack([landmarks / eyes, DEPTH, np.ones(len(DEPTH))])
    weights = WEIGHTS[:, None]
    normal = (space * weights).T @ space + np.diag([0.0, 0.0, RIDGE, 0.0])
    return np.asarray(
        landmarks + space @ np.linalg.solve(normal, (space * weights).T @ (wanted - landmarks))
    )


def _along(places: Points, off: Points) -> Points:
    """The part of `off [K,2]` that is a parabola of how far across a place lies: position, width,
    tilt and smile of a mouth, not how far it is open."""
    x = (places[:, 0] - places[:, 0].mean()) / max(float(np.ptp(places[:, 0])), 1e-9)
    basis = np.stack([np.ones_like(x), x, x * x], axis=1)
    return np.asarray(basis @ np.linalg.lstsq(basis, off, rcond=None)[0])


def _similarity(
    source: NDArray[np.complexfloating], target: NDArray[np.complexfloating]
) -> tuple[complex, complex]:
    """`turn`, `shift` with turn · source + shift ≈ target: least squares, those far from it
    weighing less each of three rounds."""
    weights = np.ones(len(source))
    for _ in range(3):
        weights = weights / weights.sum()
        middle, there = (weights * source).sum(), (weights * target).sum()
        around = source - middle
        turn = (weights * (target - there) * around.conj()).sum()
        turn = turn / max(float((weights * np.abs(around) ** 2).sum()), 1e-9)
        shift = there - turn * middle
        miss = np.abs(turn * source + shift - target)
        weights = 1.0 / np.maximum(1.0, miss / max(1e-9, 1.5 * float(np.median(miss))))
    return complex(turn), complex(shift)


def _smallest(warp: _Warp, wanted: Points) -> float:
    """The least area, of the made face over the new one, about landmarks."""
    low, high = wanted.min(axis=0), wanted.max(axis=0)
    size = float((high - low).max())
    step = size / GRID
    field = _grid_of(warp, low, step)
    (xx, yx), (xy, yy) = (np.gradient(field, step, axis=axis).transpose(2, 0, 1) for axis in (1, 0))
    a, b = warp.turn.real, warp.turn.imag
    area = (a + xx) * (a + yy) - (xy - b) * (b + yx)
    return float(np.min(area)) / max(abs(warp.turn) ** 2, 1e-9)


def _on_grid(warp: _Warp, size: int) -> NDArray[np.float32]:
    """Its field on a grid over a square of `size`, `[GRID,GRID,2]`."""
    return _grid_of(warp, np.zeros(2), size / GRID).astype(np.float32)


def _grid_of(warp: _Warp, corner: Points, step: float) -> NDArray[np.float64]:
    y, x = (np.mgrid[0:GRID, 0:GRID] + 0.5) * step
    places = np.stack([x.ravel() + corner[0], y.ravel() + corner[1]], axis=1)
    return np.asarray(warp.field(places).reshape(GRID, GRID, 2), dtype=np.float64)


def _kernel(a: Points, b: Points, reach: float) -> NDArray[np.float64]:
    far = np.square(a[:, None] - b[None]).sum(axis=-1)
    return np.asarray(np.exp(-far / (2.0 * max(reach, 1e-9) ** 2)), dtype=np.float64)


def _complex(points: Points) -> NDArray[np.complexfloating]:
    return points[..., 0] + 1j * points[..., 1]


def _pairs(values: NDArray[np.complexfloating]) -> Points:
    return np.stack([values.real, values.imag], axis=-1)
