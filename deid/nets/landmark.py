"""68 facial landmarks by soft-argmax over heat maps (Sun et al. 2018, integral regression)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deid.nets.backbones import INPUT_SIZE, Backbone, convolution

POINTS = 68


class LandmarkNet(nn.Module):
    """`[N,3,H,W]` → `[N,68,2]` in pixels of the input, x first, pixel centres at + 0.5.

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
        side = INPUT_SIZE // 4
        # Cells reach one beyond the picture's edge, so that a mean can come near it.
        axis = (torch.arange(side).float() + 0.5) / side
        axis = (axis - 0.5) * 1.2 + 0.5
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        self.register_buffer("grid", torch.stack([x, y], -1).reshape(-1, 2), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.backbone(images)[1:]
        size = maps[0].shape[-2:]
        fused = self.lateral[0](maps[0])
        for lateral, features in zip(self.lateral[1:], maps[1:], strict=True):
            fused = fused + F.interpolate(lateral(features), size=size, mode="bilinear")
        heat = self.head(fused).float().flatten(2).softmax(-1)
        height, width = images.shape[-2:]
        return (heat @ self.grid) * heat.new_tensor([width, height])
