"""Gaussian blur: the traditional method, kept for comparison.

A blur leaves the low frequencies, and a recognizer trained on blurred faces still reads them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Blur:
    """`sigma` is the Gaussian's standard deviation as a share of the crop's side."""

    sigma: float
    name: str = "blur"
    resolution: int | None = None

    @property
    def enough(self) -> int:
        """A side at which σ is 8 pixels: what finer ones would add, it takes away."""
        return math.ceil(8 / self.sigma)

    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """`[N,3,H,W]` → the same shape; seeds play no part."""
        rows = _gaussian_matrix(faces.shape[2], self.sigma).to(faces)
        columns = _gaussian_matrix(faces.shape[3], self.sigma).to(faces)
        return rows @ faces @ columns.T


def _gaussian_matrix(size: int, sigma: float) -> Tensor:
    # A dense matrix, because the kernel may be wider than the crop; each row sums to one, so that
    # the border is not darkened.
    position = torch.arange(size, dtype=torch.float64)
    weights = torch.exp(-0.5 * ((position[:, None] - position) / (sigma * size)) ** 2)
    return weights / weights.sum(dim=1, keepdim=True)
