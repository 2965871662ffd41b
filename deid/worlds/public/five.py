"""68 landmarks from five: MTCNN's O-Net, whose license allows commercial use, knows only those.

Eyes, nose tip and mouth corners say where a face is, how large, how it is rotated and how long; the
rest of the 68 is what faces with these five points have on average. So alignment and the covered
outline are as good as O-Net's points, while lids, brows and lips move only as far as the five do.
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deid.worlds.public.conventions import Convention

MIRRORED = (1, 0, 2, 4, 3)
"""The five points of a mirrored face, in its own order."""


class FiveLandmarks(nn.Module):
    """`[N,3,H,W]` → `[N,68,2]` in pixels of the input, x first (`LandmarkNetwork`).

    `network` is O-Net. It looks at each face and at its mirror image, and the mean counts.
    """

    real: Tensor
    imaginary: Tensor

    def __init__(self, network: nn.Module, convention: Convention) -> None:
        super().__init__()
        self.network = network
        self.convention = convention
        shape = torch.from_numpy(shape_from_five())
        self.register_buffer("real", shape.real.float().contiguous())
        self.register_buffer("imaginary", shape.imag.float().contiguous())

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        pictures = self.convention(images)
        points, mirrored = self._five(pictures), self._five(pictures.flip(3))[:, MIRRORED]
        mirrored = torch.stack([1 - mirrored[..., 0], mirrored[..., 1]], -1)
        five = self.convention.to_picture((points + mirrored) / 2, width, height)
        return self.spread(five)

    def _five(self, pictures: Tensor) -> Tensor:
        """`[N,5,2]`, shares of O-Net's input."""
        points: Tensor = self.network(pictures)[1]
        return points.float().view(-1, 2, 5).transpose(1, 2)

    def spread(self, points: Tensor) -> Tensor:
        """`[N,5,2]` → `[N,68,2]`, in pixels; `five_points` of the result are `points`."""
        center = points.mean(1, keepdim=True)
        x, y = (points - center).unbind(-1)
        across = x @ self.real.T - y @ self.imaginary.T
        down = y @ self.real.T + x @ self.imaginary.T
        return torch.stack([across, down], -1) + center


@cache
def shape_from_five() -> NDArray[np.complex128]:
    """The complex matrix `[68,5]` that takes five points, less their center, to 68.

    `five.csv`, row by row: five real parts, five imaginary ones. It is the least-squares fit over
    1,000 rendered people of the mini world, in all their poses and expressions, as the tests derive
    it. Of complex numbers x + iy it is the linear map that every rotation, shift and scale of a
    face passes through; and as the five points are means of some of the 68, it gives them back.
    """
    parts = np.loadtxt(Path(__file__).with_name("five.csv"), delimiter=",")
    return np.asarray(parts[:, :5] + 1j * parts[:, 5:], np.complex128)
