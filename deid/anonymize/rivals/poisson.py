"""Poisson blending (Pérez, Gangnet and Blake 2003): gradients of one picture, edge of another.

    P(I_t; I_r; S) = argmin_f ‖∇f − ∇I_r‖²  with  f = I_t outside of S

f is I_r plus the membrane h, Δh = 0 in S, that is I_t − I_r around it. OpenCV's `seamlessClone`
solves over the rectangle about S, and changes pixels outside of it.
"""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

EXACT = 64
"""A side up to which the equations are solved as they stand; larger ones start from such a one."""

SWEEPS = 60
"""Of Jacobi's method at every larger side, where little is left to do: at 256 px the result is half
a level of 256 off."""

Field = NDArray[np.float32]


def blended(made: Tensor, face: Tensor, region: Tensor) -> Tensor:
    """P of pictures `[1,3,S,S]`: `face` where `region [S,S]` is 0, the gradients of `made` within.
    The region must not touch the picture's rim."""
    difference: Field = (face - made)[0].permute(1, 2, 0).float().cpu().numpy()
    membrane = _membrane(difference, region.cpu().numpy() > 0.5)
    corrected = made + torch.from_numpy(membrane).permute(2, 0, 1)[None].to(made)
    return torch.where(region > 0.5, corrected, face)


def _membrane(values: Field, inside: NDArray[np.bool_]) -> Field:
    """`[S,S,3]`: `values`, and within `inside [S,S]` what bends least between them."""
    size = len(values)
    if size <= EXACT:
        return _solved(values, inside)
    half, outside = (size + 1) // 2, (~inside).astype(np.float32)
    around = cv2.resize(outside, (half, half), interpolation=cv2.INTER_AREA)
    small = cv2.resize(values * outside[..., None], (half, half), interpolation=cv2.INTER_AREA)
    mean: Field = np.asarray(small / np.maximum(around, 1e-6)[..., None], np.float32)
    start = _membrane(mean, around < 0.5)
    grown = cv2.resize(start, (size, size), interpolation=cv2.INTER_LINEAR)
    field = np.where(inside[..., None], grown, values).astype(np.float32)
    cross = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32) / 4.0
    for _ in range(SWEEPS):
        field = np.where(inside[..., None], cv2.filter2D(field, -1, cross), values)
    return field


def _solved(values: Field, inside: NDArray[np.bool_]) -> Field:
    """The same exactly: 4 h(p) − Σ h(q) over neighbors q in S = Σ h(q) over those outside."""
    rows, columns = np.nonzero(inside)
    number = np.full(inside.shape, -1)
    number[rows, columns] = np.arange(len(rows))
    system, right = 4.0 * np.eye(len(rows)), np.zeros((len(rows), values.shape[-1]))
    for down, across in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        beside = number[rows + down, columns + across]
        system[np.nonzero(beside >= 0)[0], beside[beside >= 0]] = -1.0
        outer = beside < 0
        right[outer] += values[rows[outer] + down, columns[outer] + across]
    field = values.copy()
    field[rows, columns] = np.linalg.solve(system, right)
    return field
