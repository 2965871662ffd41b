"""Pixelation: each block becomes its mean color."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate


@dataclass(frozen=True)
class Pixelate:
    """`blocks` across and down the crop; a crop smaller than that has one pixel a block."""

    blocks: int
    name: str = "pixelate"
    resolution: int | None = None
    enough: int | None = None

    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        """`[N,3,H,W]` → the same shape; seeds play no part."""
        height, width = faces.shape[2:]
        grid = (min(self.blocks, height), min(self.blocks, width))
        return interpolate(adaptive_avg_pool2d(faces, grid), size=(height, width), mode="nearest")
