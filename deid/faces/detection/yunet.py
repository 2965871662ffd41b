"""YuNet (Wu et al. 2023) by ONNX Runtime, which takes less than half of OpenCV's time. MIT."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from deid.faces.faces import Faces
from deid.pixels import Pixels
from deid.weights.onnx_session import open_session

THRESHOLD, CONFIDENCE_THRESHOLD = 0.3, 0.5
OVERLAP = 0.4  # of boxes that overlap more in one pass, the better one is kept
STRIDES = (8, 16, 32)  # of the three grids; one cell answers for one face

Floats = NDArray[np.float32]


class Yunet:
    """One pass of YuNet; satisfies `SinglePassDetector`. `ValueError` for another network's file.

    Its answers are read as OpenCV's `FaceDetectorYN` does (modules/objdetect/src/face_detect.cpp).
    """

    scale_invariant = False
    rotation_invariant = False

    def __init__(
        self,
        file: Path,
        threshold: float = THRESHOLD,
        confidence_threshold: float = CONFIDENCE_THRESHOLD,
    ) -> None:
        self.name, self.threshold = f"yunet:{file.stem}", threshold
        self.confidence_threshold = confidence_threshold
        self._session = open_session(file, any_size=True)
        self._input = self._session.get_inputs()[0].name
        self._parts = [f"{part}_{s}" for s in STRIDES for part in ("cls", "obj", "bbox", "kps")]
        if not {*self._parts} <= {output.name for output in self._session.get_outputs()}:
            raise ValueError("it does not answer as YuNet of 2023 does")

    def find(self, picture: Pixels) -> Faces:
        """See `SinglePassDetector`."""
        height, width = picture.shape[:2]
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        pad = (0, -height % STRIDES[-1], 0, -width % STRIDES[-1])
        bgr = cv2.copyMakeBorder(bgr, *pad, cv2.BORDER_CONSTANT)
        answers = self._session.run(self._parts, {self._input: cv2.dnn.blobFromImage(bgr)})
        grids = [
            self._read(answers[4 * i : 4 * i + 4], stride, bgr.shape[1] // stride)
            for i, stride in enumerate(STRIDES)
        ]
        boxes, scores, points = (np.concatenate(part) for part in zip(*grids, strict=True))
        x0, y0, x1, y1 = boxes.T
        whole = np.stack([x0, y0, x1 - x0, y1 - y0], axis=1).astype(np.int32)  # as OpenCV compares
        best = cv2.dnn.NMSBoxes(whole.tolist(), scores.tolist(), self.threshold, OVERLAP)
        kept = np.asarray(best, np.int64).reshape(-1)
        return Faces(boxes[kept], scores[kept], points[kept])

    def _read(
        self, answers: list[Floats], stride: int, columns: int
    ) -> tuple[Floats, Floats, Floats]:
        """Boxes `[K,4]`, scores `[K]` and points `[K,5,2]` of the cells that see a face."""
        face, there, box, points = (answer[0] for answer in answers)
        score = np.sqrt(face.clip(0, 1) * there.clip(0, 1))[:, 0]
        cells = np.flatnonzero(score >= self.threshold)
        place = np.stack([cells % columns, cells // columns], axis=1).astype(np.float32)
        middle = (place + box[cells, :2]) * stride
        half = np.exp(box[cells, 2:]) * stride / 2
        five = (place[:, None] + points[cells].reshape(-1, 5, 2)) * stride
        return np.concatenate([middle - half, middle + half], axis=1), score[cells], five
