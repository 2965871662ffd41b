"""Finding faces: the world's own detector, or a public one from a file.

SCRFD and YuNet are each asked at several scales, because neither finds both a face that fills the
picture and one of twenty pixels, and the answers are united. Both give five points with the
person's right eye and mouth corner first, which is our order too: left of the picture first.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from deid.errors import DeidError
from deid.images import Pixels
from deid.onnx import open_session
from deid.worlds.world import FaceDetector, Faces, World

SCRFD_THRESHOLD = 0.4
YUNET_THRESHOLD = 0.6
SAME_FACE = 0.4  # boxes that overlap more (intersection over union) are one face
SIDES = (256, 640, 1280, 2048)  # the picture's longer side at each pass

Find = Callable[[Pixels], tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]
"""`uint8 [H,W,3]` BGR → boxes `[K,4]`, scores `[K]`, points `[K,5,2]`."""


def build_detector(spec: str | None, world: World) -> FaceDetector:
    """The detector that `spec` names: None (the world's), `scrfd=FILE` or `yunet=FILE`."""
    if spec is None:
        return world.detector
    kind, _, file = spec.partition("=")
    builders: dict[str, Callable[[Path], FaceDetector]] = {
        "scrfd": ScrfdDetector,
        "yunet": YunetDetector,
    }
    if kind not in builders or not file:
        raise DeidError(f"detector {spec!r}: unknown; write scrfd=FILE or yunet=FILE")
    path = Path(file)
    if not path.is_file():
        raise DeidError(f"{path}: no such detector file; give the path of a .onnx file")
    try:
        return builders[kind](path)
    except Exception as error:
        reason = str(error).split("\n")[0][:160]
        raise DeidError(f"{path}: not a {kind} detector ({reason}); download it again") from None


class ScrfdDetector:
    """InsightFace's SCRFD on the CPU. Its weights are for non-commercial research only."""

    def __init__(self, file: Path, threshold: float = SCRFD_THRESHOLD) -> None:
        from insightface.model_zoo import SCRFD

        session = open_session(file)
        if len(session.get_outputs()) != 9:
            raise ValueError("it has no five points for each face")
        self.name = f"scrfd:{file.stem}"
        self.network = SCRFD(model_file=str(file), session=session)
        # The library's own default, 0.5, misses faces.
        self.network.prepare(-1, det_thresh=threshold, nms_thresh=SAME_FACE)
        # Some copies stamp one input size into the file; they are shown that size only.
        self._fixed: tuple[int, int] | None = self.network.static_input_size

    def detect(self, pictures: Sequence[Pixels]) -> list[Faces]:
        """See `FaceDetector`."""
        return [multiscale(picture, self._find) for picture in pictures]

    def _find(self, bgr: Pixels) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        height, width = bgr.shape[:2]
        size = self._fixed or (-(-width // 32) * 32, -(-height // 32) * 32)
        if self._fixed is None:
            # Padded here, so that the network's input is the picture at exactly this scale.
            pad = (0, size[1] - height, 0, size[0] - width)
            bgr = np.asarray(cv2.copyMakeBorder(bgr, *pad, cv2.BORDER_CONSTANT), dtype=np.uint8)
        found, points = self.network.detect(bgr, input_size=size)
        return found[:, :4], found[:, 4], points


class YunetDetector:
    """OpenCV's YuNet (MIT)."""

    def __init__(self, file: Path, threshold: float = YUNET_THRESHOLD) -> None:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
        self.name = f"yunet:{file.stem}"
        self.network = cv2.FaceDetectorYN.create(
            str(file), "", (320, 320), score_threshold=threshold, nms_threshold=SAME_FACE
        )

    def detect(self, pictures: Sequence[Pixels]) -> list[Faces]:
        """See `FaceDetector`."""
        return [multiscale(picture, self._find) for picture in pictures]

    def _find(self, bgr: Pixels) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        self.network.setInputSize((bgr.shape[1], bgr.shape[0]))
        _, found = self.network.detect(bgr)
        rows = np.zeros((0, 15), np.float32) if found is None else found
        boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
        return boxes, rows[:, 14], rows[:, 4:14].reshape(-1, 5, 2)


def multiscale(picture: Pixels, find: Find) -> Faces:
    """Ask `find` at each scale that makes sense for `picture` and unite what it answers."""
    longer = max(picture.shape[:2])
    bgr = np.ascontiguousarray(picture[..., ::-1])
    boxes, scores, points = [], [], []
    for side in _sides(longer):
        scale = side / longer
        size = (max(1, round(bgr.shape[1] * scale)), max(1, round(bgr.shape[0] * scale)))
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        found = find(np.asarray(cv2.resize(bgr, size, interpolation=method), dtype=np.uint8))
        ratio = np.array([picture.shape[1] / size[0], picture.shape[0] / size[1]])
        boxes.append(found[0] * np.tile(ratio, 2))
        scores.append(found[1])
        points.append(found[2] * ratio)
    return unite(np.concatenate(boxes), np.concatenate(scores), np.concatenate(points))


def _sides(longer: int) -> list[int]:
    """Twice the picture's size at most: more shows a network nothing that is there."""
    return [side for side in SIDES if side <= 2 * longer] or [SIDES[0]]


def unite(boxes: NDArray[Any], scores: NDArray[Any], points: NDArray[Any]) -> Faces:
    """Non-maximum suppression: of boxes that overlap the most certain one stays."""
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    for index in order:
        if all(overlap(boxes[index], boxes[other]) <= SAME_FACE for other in kept):
            kept.append(int(index))
    return Faces(
        boxes[kept].astype(np.float32).reshape(-1, 4),
        scores[kept].astype(np.float32).clip(0, 1),
        points[kept].astype(np.float32).reshape(-1, 5, 2),
    )


def overlap(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Intersection over union of two boxes `[4]`."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = float(np.prod(np.clip(high - low, 0, None)))
    total = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - shared
    return shared / max(total, 1e-9)
