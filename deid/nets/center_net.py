"""A small face detector's network: convolutions over one picture (after CenterNet, Zhou 2019).

At every cell of stride 4 it says how likely a face is centered there, and where the sides of its
box and five points would be. `deid.faces.detection.center` shows it pictures and reads its answers.
"""

import torch
from torch import Tensor, nn

from deid.nets.backbones import convolution

STRIDE = 4
UNIT = 16.0
"""Distances leave the net in units of this many pixels."""
OUTPUTS = 1 + 4 + 10
"""Score (logit); distances to left, top, right, bottom; five points relative to the cell."""


class CenterNet(nn.Module):
    """`[N,3,H,W]` in [-1, 1], H and W multiples of 16 → `[N,15,H/4,W/4]`."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.fine = nn.Sequential(convolution(3, 16, 3, 2), convolution(16, 32, 3, 2))
        self.middle = nn.Sequential(convolution(32, width, 3, 2), convolution(width, width))
        self.coarse = nn.Sequential(
            convolution(width, 2 * width, 3, 2), convolution(2 * width, width)
        )
        self.join = nn.ModuleList([convolution(width, width), convolution(32 + width, width)])
        self.head = nn.Conv2d(width, OUTPUTS, 1)
        assert self.head.bias is not None
        nn.init.constant_(self.head.bias[:1], -4.0)  # faces are rare

    def forward(self, images: Tensor) -> Tensor:
        fine = self.fine(images.contiguous(memory_format=torch.channels_last))
        middle = self.middle(fine)
        up = nn.functional.interpolate(self.coarse(middle), scale_factor=2.0, mode="bilinear")
        middle = self.join[0](middle + up)
        up = nn.functional.interpolate(middle, scale_factor=2.0, mode="bilinear")
        found: Tensor = self.head(self.join[1](torch.cat([fine, up], 1)))
        return found
