"""The three networks of CIAGAN (Maximov, Elezi and Leal-Taixé 2020), as their code has at 64 px:
residual blocks without batch norm, a bottleneck that takes the identity, instance norm.

Narrower and shallower than theirs, for a processor: 24 to 88 channels in the generator (64 to 256),
24 to 96 in the discriminator (64 to 512), two residual blocks in the middle (4), 3 layers for the
identity (7). Instead of their first block, 2 × 2 pixels are four channels. G ends in a sigmoid and
D in no rectifier, which in their code is the other way about; embeddings have one length. S sees no
finest detail, for in a first training G painted stripes.
"""

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from deid.nets.backbones import Backbone

PICTURE, SIDE = 64, 48
"""Sides of the aligned pictures, and of the part around the face that the networks see."""

SEEN = (..., slice(PICTURE - SIDE, PICTURE), slice((PICTURE - SIDE) // 2, (PICTURE + SIDE) // 2))
"""That part, brow to chin: rows and columns of a picture."""

OUTLINE, BRIDGE, LIPS = range(17), range(27, 31), (*range(60, 68), 60)
LEFT_BROW, RIGHT_BROW = 19, 24
"""The landmarks that are drawn as lines, and those that bound the mask above."""

IDENTITIES = 128
"""So many people the generator knows."""

GENERATOR_WIDTHS = (24, 48, 88)
DISCRIMINATOR_WIDTHS = (24, 48, 96)
SIAMESE_WIDTHS, EMBEDDING, RADIUS = (16, 32, 64, 96), 64, 3.0
IDENTITY_WIDTH, LAST_WIDTH = 128, 16
FOLD, FOLDED = 2, 16  # pixels a side that become channels; so many those of picture and lines are
CELLS, CELL_WIDTH = SIDE // FOLD >> len(GENERATOR_WIDTHS), 32
"""The identity enters as a map of 3 × 3 cells."""


def _convolution(inputs: int, outputs: int, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, padding_mode="reflect")


def _norm(channels: int) -> nn.InstanceNorm2d:
    return nn.InstanceNorm2d(channels, affine=True)


class Down(nn.Module):
    """Two convolutions beside one of 1 × 1, then half the size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = _convolution(inputs, outputs), _convolution(outputs, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(F.relu(self.first(F.relu(x))))
        halved: Tensor = F.avg_pool2d(y, 2) + self.shortcut(F.avg_pool2d(x, 2))
        return halved


class Up(nn.Module):
    """Twice the size, then as `Down`, with instance norms."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([_norm(inputs), _norm(outputs)])
        self.first, self.second = _convolution(inputs, outputs), _convolution(outputs, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.first(_twice(F.relu(self.norms[0](x))))
        y = self.second(F.relu(self.norms[1](y)))
        return y + _twice(self.shortcut(x))


class Same(nn.Module):
    """A residual block that keeps size and width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(_convolution(width, width), _norm(width), nn.ReLU()),
            *(_convolution(width, width), _norm(width)),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y


class Generator(nn.Module):
    """G: a face's surroundings and its landmarks, drawn as lines, and whose face it is to be →
    a face that fits in."""

    def __init__(
        self, identities: int = IDENTITIES, widths: Sequence[int] = GENERATOR_WIDTHS
    ) -> None:
        super().__init__()
        wide = widths[-1]
        self.down = nn.ModuleList(Down(a, b) for a, b in pairwise((FOLDED, *widths)))
        self.down_norms = nn.ModuleList(_norm(width) for width in widths)
        self.identity = nn.Sequential(
            nn.Embedding(identities, IDENTITY_WIDTH),  # a one-hot vector times a matrix
            *(nn.LeakyReLU(0.2), nn.Linear(IDENTITY_WIDTH, 256)),
            *(nn.LeakyReLU(0.2), nn.Linear(256, CELL_WIDTH * CELLS**2), nn.LeakyReLU(0.2)),
            nn.Unflatten(1, (CELL_WIDTH, CELLS, CELLS)),
            *(_convolution(CELL_WIDTH, wide // 2), nn.LeakyReLU(0.2), _norm(wide // 2)),
            *(_convolution(wide // 2, wide), nn.LeakyReLU(0.2), _norm(wide)),
        )
        self.join = nn.Sequential(_convolution(2 * wide, wide), _norm(wide), Same(wide), Same(wide))
        upward = (wide, *reversed(widths))
        self.up = nn.ModuleList(Up(a, b) for a, b in pairwise(upward))
        self.up_norms = nn.ModuleList(_norm(width) for width in upward[1:])
        self.last = nn.Sequential(
            *(_convolution(upward[-1], LAST_WIDTH), nn.ReLU(), _convolution(LAST_WIDTH, 3)),
        )

    def forward(self, surroundings: Tensor, lines: Tensor, identities: Tensor) -> Tensor:
        """`[N,3,48,48]` in [-1, 1], `[N,1,48,48]` in [0, 1], numbers `[N]` → `[N,3,48,48]` in
        [-1, 1]."""
        x = _folded(surroundings, lines)
        for down, norm in zip(self.down, self.down_norms, strict=True):
            x = norm(down(x))
        x = self.join(torch.cat([x, self.identity(identities)], 1))
        for up, norm in zip(self.up, self.up_norms, strict=True):
            x = norm(up(x))
        drawn: Tensor = self.last(_twice(F.relu(x)))
        return drawn.sigmoid() * 2.0 - 1.0


class Discriminator(nn.Module):
    """D: is this picture one, with these landmarks?"""

    def __init__(self, widths: Sequence[int] = DISCRIMINATOR_WIDTHS) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(Down(a, b) for a, b in pairwise((FOLDED, *widths))), nn.Flatten()
        )
        cells = (SIDE // FOLD >> len(widths)) ** 2
        self.head = nn.Sequential(
            *(nn.Linear(widths[-1] * cells, 256), nn.LeakyReLU(0.2)),
            nn.Linear(256, 1),
        )

    def forward(self, pictures: Tensor, lines: Tensor) -> Tensor:
        """`[N,3,48,48]` in [-1, 1] and `[N,1,48,48]` in [0, 1] → `[N]`, 1 for real ones."""
        found: Tensor = self.head(self.body(_folded(pictures, lines)))
        return found[:, 0]


class Siamese(nn.Module):
    """S, the identity discriminator: faces of one person lie close, on a sphere."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone("resnet", SIAMESE_WIDTHS, (1, 1, 1, 1))
        self.head = nn.Sequential(
            nn.Linear(SIAMESE_WIDTHS[-1], 128), nn.ReLU(), nn.Linear(128, EMBEDDING)
        )

    def forward(self, faces: Tensor) -> Tensor:
        """`[N,3,48,48]` in [-1, 1] → `[N,64]`."""
        coarse = F.interpolate(F.avg_pool2d(faces, 2), scale_factor=2.0, mode="bilinear")
        return RADIUS * F.normalize(self.head(self.backbone(coarse)[-1].mean((2, 3))))


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def _folded(pictures: Tensor, lines: Tensor) -> Tensor:
    """What the first blocks see; in [0, 1], as they rectify it."""
    return F.pixel_unshuffle(torch.cat([(pictures + 1.0) / 2.0, lines], 1), FOLD)


def anonymized(generator: Generator, faces: Tensor, landmarks: Tensor, whom: Tensor) -> Tensor:
    """x' of `faces [N,3,64,64]` in [-1, 1] with `landmarks [N,68,2]` in their pixels, for the
    identities `[N]`."""
    seen, inside = faces[SEEN], masks(landmarks, PICTURE).to(faces)[SEEN]
    drawn = generator(seen * (1.0 - inside), lines(landmarks).to(faces)[SEEN], whom)
    made = faces.clone()
    made[SEEN] = torch.lerp(seen, drawn, inside)
    return made.clamp(-1.0, 1.0)


def lines(landmarks: Tensor) -> Tensor:
    """l: outline, bridge of the nose and mouth, `[N,1,64,64]` in [0, 1]."""
    pictures = np.zeros((len(landmarks), PICTURE, PICTURE), np.uint8)
    for picture, points in zip(pictures, _fixed_point(landmarks), strict=True):
        parts = [points[list(part)] for part in (OUTLINE, BRIDGE, LIPS)]
        cv2.polylines(picture, parts, False, 255, 1, cv2.LINE_AA, BITS)
    return torch.from_numpy(pictures)[:, None] / 255.0


def masks(landmarks: Tensor, side: int) -> Tensor:
    """m: brows to chin, as far as the networks see, `[N,1,side,side]` in [0, 1]; of landmarks in
    pixels of `side`."""
    pictures = np.zeros((len(landmarks), side, side), np.uint8)
    for picture, points in zip(pictures, _fixed_point(landmarks), strict=True):
        jaw = points[list(OUTLINE)]
        corners = [(jaw[0, 0], points[LEFT_BROW, 1]), (jaw[-1, 0], points[RIGHT_BROW, 1])]
        outline = np.concatenate([corners[:1], jaw, corners[1:]]).astype(np.int32)
        cv2.fillPoly(picture, [outline], 255, cv2.LINE_AA, BITS)
    seen = torch.zeros(1, 1, PICTURE, PICTURE)
    seen[SEEN] = 1.0
    return torch.from_numpy(pictures)[:, None] / 255.0 * F.interpolate(seen, size=(side, side))


BITS = 4
"""Of a pixel's fraction, with which lines are drawn."""


def _fixed_point(landmarks: Tensor) -> NDArray[np.int32]:
    points: NDArray[np.int32] = np.round(landmarks.numpy() * 2**BITS).astype(np.int32)
    return points
