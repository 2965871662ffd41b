"""How far one head is turned from another, by what is deep in a face moving beside what is not."""

import numpy as np

from deid.faces.alignment import INNER, Points

# fmt: off
DEPTH = np.array([
    0.92, 1.12, 1.14, 1.07, 0.97, 0.85, 0.68, 0.54, 0.52,
    0.54, 0.68, 0.85, 0.97, 1.07, 1.14, 1.12, 0.92,
    0.61, 0.38, 0.3, 0.24, 0.21, 0.21, 0.24, 0.3, 0.38, 0.61,
    0.23, 0.14, 0.02, 0.0, 0.25, 0.23, 0.21, 0.23, 0.25,
    0.49, 0.41, 0.39, 0.43, 0.41, 0.43, 0.43, 0.39, 0.41, 0.49, 0.43, 0.41,
    0.49, 0.29, 0.24, 0.24, 0.24, 0.29, 0.49, 0.35, 0.31, 0.31, 0.31, 0.35,
    0.47, 0.31, 0.3, 0.31, 0.47, 0.33, 0.32, 0.33,
])
# fmt: on
"""How far behind the tip of the nose 68 landmarks lie, in distances of the eyes' outer corners: the
mean of Face Mesh's over 40 drawn faces seen from the front, made symmetric."""

WEIGHTS = np.repeat((0.3, 1.0), (17, 51))
"""Of the landmarks in a pose: those of the jaw are found less well."""

RIDGE = 0.01
"""Of what depth adds, in squared distances of the eyes: faces differ in depth."""


MIRRORED = [
    *range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1),
    *(45, 44, 43, 42, 47, 46), *(39, 38, 37, 36, 41, 40), *range(54, 47, -1), *range(59, 54, -1),
    *range(64, 59, -1), *range(67, 64, -1),
]  # fmt: skip
"""Of each of 68 landmarks, its counterpart on the other side."""


def head_turn(landmarks: Points, wanted: Points) -> Points:
    """How far points of `landmarks [68,2]` move right and down, `[2]`, for each distance of the
    eyes' outer corners that they lie deeper, when the head turns to where `wanted [68,2]` look: in
    the unit of both. Least squares beside a shift, a rotation and a scale, which turn no head."""
    eyes = max(float(np.linalg.norm(wanted[36] - wanted[45])), 1e-9)
    x, y = ((landmarks - landmarks[INNER].mean(axis=0)) / eyes).T
    one, none = np.ones(len(DEPTH)), np.zeros(len(DEPTH))
    right = np.column_stack([x, -y, one, none, DEPTH, none])
    down = np.column_stack([y, x, none, one, none, DEPTH])
    basis, moved = np.concatenate([right, down]), (wanted - landmarks).T.ravel()
    weighted = basis * np.tile(WEIGHTS, 2)[:, None]
    normal = weighted.T @ basis + np.diag([0.0, 0.0, 0.0, 0.0, RIDGE, RIDGE])
    return np.asarray(np.linalg.solve(normal, weighted.T @ moved)[4:])


def angle(landmarks: Points, wanted: Points) -> float:
    """By how many degrees a head with `landmarks [68,2]` must turn to look where `wanted` look."""
    # Of the two, the head that is turned less shows the eyes' true distance.
    eyes = max(float(np.linalg.norm(face[36] - face[45])) for face in (landmarks, wanted))
    turn = float(np.linalg.norm(head_turn(landmarks, wanted))) / max(eyes, 1e-9)
    return float(np.degrees(np.arcsin(min(1.0, turn))))


def straight(mean: Points) -> Points:
    """A face `[68,2]` that looks ahead: the `mean` of many, made symmetric."""
    middle = mean[INNER, 0].mean()
    mirrored = (mean[MIRRORED] - [middle, 0.0]) * [-1.0, 1.0] + [middle, 0.0]
    return np.asarray((mean + mirrored) / 2)
