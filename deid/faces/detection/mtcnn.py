"""MTCNN's cascade: propose on a pyramid, refine, and place five points (Zhang et al. 2016).

Thresholds and rules are those of facenet-pytorch (MIT), with which most published detection rates
were measured; the code is ours and works on all of a stage's windows at once.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deid.errors import DeidError
from deid.faces.detection.boxes import Boxes, suppress
from deid.faces.faces import Faces
from deid.nets.mtcnn import NAMES, mtcnn_net
from deid.pixels import Pixels
from deid.weights.files import read_content
from deid.weights.importers.mtcnn import convert

THRESHOLD, CONFIDENCE_THRESHOLD = 0.7, 0.9
PROPOSED, REFINED = 0.6, 0.7  # thresholds of the first two stages
SMALLEST = 20.0  # pixels; the window of the first network stands for so much
STEP = 0.709  # from one scale of the pyramid to the next: half the area
WINDOW, STRIDE = 12, 2
LIMIT = 4000  # windows that go on from the first stage, the best first: noise proposes without end
BATCH = 512


class Mtcnn:
    """One pass of MTCNN over faces of 20 pixels and more; satisfies `SinglePassDetector`."""

    scale_invariant = True
    rotation_invariant = False

    def __init__(
        self,
        nets: Mapping[str, nn.Module],
        threshold: float = THRESHOLD,
        confidence_threshold: float = CONFIDENCE_THRESHOLD,
    ) -> None:
        self.name, self.threshold, self.nets = "mtcnn", threshold, nets
        self.confidence_threshold = confidence_threshold

    @torch.inference_mode()
    def find(self, picture: Pixels) -> Faces:
        """See `SinglePassDetector`."""
        boxes = self._proposed(picture)
        for stage in ("rnet", "onet"):
            if not len(boxes):
                return Faces.none()
            boxes = squared(boxes)
            found = self._judged(stage, picture, boxes)
            if stage == "onet":
                return self._placed(boxes, *found)
            keep = found[-1] > REFINED
            boxes, scores = corrected(boxes[keep], found[0][keep]), found[-1][keep]
            boxes = boxes[suppress(boxes, scores, 0.7)]
        raise AssertionError

    def _proposed(self, picture: Pixels) -> Boxes:
        """Windows `[K,4]` in which the first network suspects a face."""
        boxes, scores = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.float32)]
        height, width = picture.shape[:2]
        for level in pyramid(picture):
            moves, chances = self.nets["pnet"](normalized(level[None]))
            mask = chances[0, 1] >= PROPOSED
            score = chances[0, 1][mask].numpy()
            cells = mask.nonzero().numpy()[:, ::-1].astype(np.float32) * STRIDE
            ratio = np.array([width / level.shape[1], height / level.shape[0]] * 2, np.float32)
            windows = np.concatenate([cells, cells + WINDOW], 1) * ratio
            kept = suppress(windows, score, 0.5)
            boxes.append(corrected(windows, moves[0][:, mask].t().numpy())[kept])
            scores.append(score[kept])
        everything, score = np.concatenate(boxes), np.concatenate(scores)
        return everything[suppress(everything, score, 0.7)[:LIMIT]]

    def _judged(self, stage: str, picture: Pixels, boxes: Boxes) -> list[NDArray[np.float32]]:
        """What a network says of each window `[K,4]`; at last the chance of a face `[K]`."""
        side = {"rnet": 24, "onet": 48}[stage]
        answers = []
        for start in range(0, len(boxes), BATCH):
            windows = np.stack([cut(picture, b, side) for b in boxes[start : start + BATCH]])
            *rest, chances = self.nets[stage](normalized(windows))
            answers.append([*rest, chances[:, 1]])
        return [torch.cat(parts).numpy() for parts in zip(*answers, strict=True)]

    def _placed(
        self,
        boxes: Boxes,
        moves: NDArray[np.float32],
        points: NDArray[np.float32],
        scores: NDArray[np.float32],
    ) -> Faces:
        keep = scores > self.threshold
        boxes, moves, points, scores = boxes[keep], moves[keep], points[keep], scores[keep]
        sides = boxes[:, None, 2:] - boxes[:, None, :2]
        placed = boxes[:, None, :2] + sides * points.reshape(-1, 2, 5).transpose(0, 2, 1)
        boxes = corrected(boxes, moves)
        best = suppress(boxes, scores, limit=1.0, part=0.7)
        return Faces(boxes[best], scores[best], placed[best].astype(np.float32))


def load_mtcnn(folder: Path) -> Mtcnn:
    """The three networks from `pnet.pt`, `rnet.pt` and `onet.pt` in `folder`.

    `DeidError` names a file that is missing, not readable without running code, or another
    network's.
    """
    nets: dict[str, nn.Module] = {}
    for part in NAMES:
        file = folder / f"{part}.pt"
        if not file.is_file():
            raise DeidError(f"{file}: missing; give the folder that holds {', '.join(NAMES)} .pt")
        try:
            imported = convert(read_content(file))
        except Exception as error:
            reason = str(error).split("\n")[0][:120]
            raise DeidError(f"{file}: not MTCNN's {part} ({reason}); download it again") from None
        if imported.config["part"] != part:
            raise DeidError(f"{file}: is {imported.config['part']}; download {part}.pt again")
        net = mtcnn_net(part)
        net.load_state_dict(dict(imported.state))
        nets[part] = net.eval().requires_grad_(False)
    return Mtcnn(nets)


def pyramid(picture: Pixels) -> Iterator[Pixels]:
    """The sizes at which the first network looks for faces, largest first.

    What a level averages over was halved before, which takes a third of the time of averaging over
    the whole picture each time, and is the same but for rounding.
    """
    height, width = picture.shape[:2]
    scale = WINDOW / SMALLEST
    while min(height, width) * scale >= WINDOW:
        size = (int(np.ceil(width * scale)), int(np.ceil(height * scale)))
        while picture.shape[0] >= 3 * size[1] and picture.shape[1] >= 3 * size[0]:
            half = (picture.shape[1] // 2, picture.shape[0] // 2)
            picture = np.asarray(cv2.resize(picture, half, interpolation=cv2.INTER_AREA), np.uint8)
        yield np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        scale *= STEP


def normalized(pixels: Pixels) -> Tensor:
    """`uint8 [N,H,W,3]` → `float32 [N,3,H,W]`, as the networks want it."""
    batch = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
    return batch.float().sub_(127.5).mul_(1 / 128)


def corrected(boxes: Boxes, moves: NDArray[np.float32]) -> Boxes:
    """Each side of `[K,4]` moved by a share `[K,4]` of the box's width or height."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.asarray(boxes + moves * np.tile(sides, 2), np.float32)


def squared(boxes: Boxes) -> Boxes:
    """The squares around the middles of `[K,4]`, as large as the longer sides."""
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True) / 2
    return np.asarray(np.concatenate([middle - half, middle + half], 1), np.float32)


def cut(picture: Pixels, box: Boxes, side: int) -> Pixels:
    """The window `[4]` of a picture as `uint8 [side,side,3]`; black beyond the frame."""
    x0, y0, x1, y1 = (int(v) for v in np.round(box))
    x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
    height, width = picture.shape[:2]
    inside = picture[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
    if inside.size == 0:
        return np.zeros((side, side, 3), np.uint8)
    pad = (max(-y0, 0), max(y1 - height, 0), max(-x0, 0), max(x1 - width, 0))
    if any(pad):
        inside = np.asarray(cv2.copyMakeBorder(inside, *pad, cv2.BORDER_CONSTANT), np.uint8)
    return np.asarray(cv2.resize(inside, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
