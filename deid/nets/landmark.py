"""68 facial landmarks by soft-argmax over heat maps (Sun et al. 2018, integral regression)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deid.nets.backbones import INPUT_SIZE, Backbone, convolution

POINTS = 68
SIDE = INPUT_SIZE // 4
SPREAD = 1.2
"""The grid of cells is this much wider than the picture, so that a mean can come near its edge."""


class LandmarkNet(nn.Module):
    """`[N,3,H,W]` → `[N,68,2]` in pixels of the input, x first, pixel centers at + 0.5.

    The three coarser maps of a residual backbone are brought to 16×16 and summed; each point is the
    mean place under the softmax of its heat map, so it is differentiable and finer than a cell.
    """

    grid: Tensor

    def __init__(
        self, channels: Sequence[int], blocks: Sequence[int], width: int = 64, points: int = POINTS
    ) -> None:
        super().__init__()
        self.backbone = Backbone("resnet", channels, blocks)
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels[1:])
        self.head = nn.Sequential(nn.ReLU(), convolution(width, width), nn.Conv2d(width, points, 1))
        axis = ((torch.arange(SIDE).float() + 0.5) / SIDE - 0.5) * SPREAD + 0.5
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        self.register_buffer("grid", torch.stack([x, y], -1).reshape(-1, 2), persistent=False)

    def heat(self, images: Tensor) -> Tensor:
        """Log-probability of each cell, `[N,68,cells]`, the 16×16 grid row by row."""
        maps = self.backbone(images)[1:]
        size = maps[0].shape[-2:]
        fused = self.lateral[0](maps[0])
        for lateral, features in zip(self.lateral[1:], maps[1:], strict=True):
            fused = fused + F.interpolate(lateral(features), size=size, mode="bilinear")
        heat: Tensor = self.head(fused).float().flatten(2)
        return heat.log_softmax(-1)

    def place(self, heat: Tensor) -> Tensor:
        """The mean place under each heat map, `[N,68,2]` in picture widths and heights."""
        return heat.exp() @ self.grid

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        place = self.place(self.heat(images))
        return place * place.new_tensor([width, height])


def cell_weights(places: Tensor) -> tuple[Tensor, Tensor]:
    """The four cells about each of `places` `[...,2]`, and weights whose mean place is that place.

    Indices and weights are `[...,4]`; places beyond the grid go to its border.
    """
    cell = ((places - 0.5) / SPREAD + 0.5) * SIDE - 0.5
    cell = cell.clamp(0, SIDE - 1.001)
    low = cell.floor()
    right, below = (cell - low).unbind(-1)
    corner = low[..., 1].long() * SIDE + low[..., 0].long()
    indices = torch.stack([corner, corner + 1, corner + SIDE, corner + SIDE + 1], -1)
    weights = [(1 - right) * (1 - below), right * (1 - below), (1 - right) * below, right * below]
    return indices, torch.stack(weights, -1)
