"""The mini world's detector: a small network over a picture pyramid.

The network (`deid.nets.center_net`) knows faces of about 12 to 28 pixels; pictures are halved until
larger ones have come down to that, so one small net serves faces of any size.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from deid.faces.detection.boxes import suppress
from deid.faces.faces import Faces
from deid.nets.center_net import OUTPUTS, STRIDE, UNIT
from deid.pixels import Pixels, to_tensor

THRESHOLD, CONFIDENCE_THRESHOLD = 0.25, 0.5  # of single passes
PART = 0.7
"""Boxes of which the smaller shares more than this with the larger are one face."""
MARGIN = 8
"""Pixels by which the border is repeated, so that a face at the edge looks like any other."""


class CenterDetector:
    """Faces in pictures of any size; satisfies `FaceDetector` and `HasSinglePass`."""

    def __init__(
        self,
        net: nn.Module,
        name: str = "mini",
        threshold: float = 0.55,
        overlap: float = 0.35,
        single_pass: "CenterSinglePass | None" = None,
    ) -> None:
        """`threshold`: the lowest score kept; `overlap`: the IoU above which faces are one.

        `single_pass`: what a multi-scale detector uses; none: the same net.
        """
        self.net, self.name, self.threshold, self.overlap = net, name, threshold, overlap
        self._single_pass = single_pass

    def detect(self, pictures: Sequence[Pixels]) -> list[Faces]:
        """One `Faces` for each `uint8 [H,W,3]` picture, in order; best score first."""
        candidates: list[list[NDArray[np.float32]]] = [[] for _ in pictures]
        for batch in _batches(pictures):
            stack = np.stack([pictures[i] for i in batch])
            for scale, level in _pyramid(stack):
                for i, rows in zip(batch, self._candidates(level, scale), strict=True):
                    candidates[i].append(rows)
        sizes = [picture.shape[:2] for picture in pictures]
        return [self._merge(rows, size) for rows, size in zip(candidates, sizes, strict=True)]

    def single_pass(self) -> "CenterSinglePass":
        """See `HasSinglePass`."""
        return self._single_pass or CenterSinglePass(self.net, self.name)

    @torch.no_grad()
    def _candidates(self, level: Pixels, scale: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """`[K,15]` rows (score, box, points) in picture pixels, for each picture of a level."""
        output = self.net(to_tensor(_padded(level))).float()
        score = output[:, :1].sigmoid()
        peak = nn.functional.max_pool2d(score, 3, 1, 1) == score
        keep = (peak & (score > self.threshold))[:, 0]
        return [
            _decoded(output[i, :, mask].t().numpy(), mask.nonzero().numpy(), scale)
            for i, mask in enumerate(keep)
        ]

    def _merge(self, parts: list[NDArray[np.float32]], size: tuple[int, ...]) -> Faces:
        rows = np.concatenate(parts) if parts else np.zeros((0, OUTPUTS), np.float32)
        rows = rows[suppress(rows[:, 1:5], rows[:, 0], self.overlap, PART)]
        limit = np.array([size[1], size[0]] * 2, np.float32)
        boxes = np.clip(rows[:, 1:5], 0, limit)
        return Faces(boxes, rows[:, 0], rows[:, 5:].reshape(-1, 5, 2))


class CenterSinglePass:
    """One pass of a net trained on heads at any rotation; satisfies `SinglePassDetector`."""

    scale_invariant = True
    rotation_invariant = True

    def __init__(self, net: nn.Module, name: str = "mini") -> None:
        self.name, self.threshold = name, THRESHOLD
        self.confidence_threshold = CONFIDENCE_THRESHOLD
        self._detector = CenterDetector(net, name, THRESHOLD)

    def find(self, picture: Pixels) -> Faces:
        """The faces of one picture `uint8 [H,W,3]`."""
        return self._detector.detect([picture])[0]


def _decoded(
    rows: NDArray[np.float32], cells: NDArray[np.int64], scale: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Rows `[K,15]` at cells `[K,2]` (row, column) → score, box, points in the picture."""
    center = (cells[:, ::-1] + 0.5).astype(np.float32) * STRIDE - MARGIN
    score = 1 / (1 + np.exp(-rows[:, :1]))
    low, high = center - rows[:, 1:3] * UNIT, center + rows[:, 3:5] * UNIT
    points = center[:, None] + rows[:, 5:].reshape(-1, 5, 2) * UNIT
    corners = np.concatenate([low, high], 1) * np.tile(scale, 2)
    return np.concatenate([score, corners, (points * scale).reshape(-1, 10)], 1).astype(np.float32)


def _batches(pictures: Sequence[Pixels], limit: int = 1 << 22) -> list[list[int]]:
    """Indices of pictures of one size, at most about `limit` pixels together."""
    of_size: dict[tuple[int, ...], list[int]] = {}
    for i, picture in enumerate(pictures):
        of_size.setdefault(picture.shape, []).append(i)
    batches = []
    for shape, members in of_size.items():
        count = min(64, max(1, limit // max(1, shape[0] * shape[1])))
        batches += [members[i : i + count] for i in range(0, len(members), count)]
    return batches


def _pyramid(stack: Pixels) -> list[tuple[NDArray[np.float32], Pixels]]:
    """(picture pixels per level pixel `[x, y]`, `uint8 [N,h,w,3]`): halves, down to about 24."""
    height, width = stack.shape[1:3]
    levels = []
    for halvings in range(12):
        size = (max(1, round(width / 2**halvings)), max(1, round(height / 2**halvings)))
        if halvings and max(size) < 24:
            break
        smaller = [cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in stack]
        scale = np.array([width / size[0], height / size[1]], np.float32)
        levels.append((scale, np.stack(smaller).astype(np.uint8)))
    return levels


def _padded(level: Pixels, multiple: int = 16) -> Pixels:
    """Repeat the border by `MARGIN`, and further right and below, so that halves fit together."""
    height, width = (n + 2 * MARGIN for n in level.shape[1:3])
    rows = (MARGIN, MARGIN + -height % multiple)
    columns = (MARGIN, MARGIN + -width % multiple)
    return np.pad(level, ((0, 0), rows, columns, (0, 0)), mode="edge")
