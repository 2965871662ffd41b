"""YuNet (Wu et al. 2023) through OpenCV. MIT."""

from pathlib import Path

import cv2
import numpy as np

from deid.images import Pixels
from deid.worlds.world import Faces

THRESHOLD, SURE = 0.3, 0.5
OVERLAP = 0.4  # of boxes that overlap more in one look, the library keeps the better one


class YunetFinder:
    """One look of YuNet; satisfies `Finder`."""

    any_size = False
    any_turn = False

    def __init__(self, file: Path, threshold: float = THRESHOLD, sure: float = SURE) -> None:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
        self.name, self.threshold, self.sure = f"yunet:{file.stem}", threshold, sure
        self.network = cv2.FaceDetectorYN.create(
            str(file), "", (320, 320), score_threshold=threshold, nms_threshold=OVERLAP
        )

    def find(self, picture: Pixels) -> Faces:
        """See `Finder`."""
        bgr = np.ascontiguousarray(picture[..., ::-1])
        self.network.setInputSize((bgr.shape[1], bgr.shape[0]))
        _, found = self.network.detect(bgr)
        rows = np.zeros((0, 15), np.float32) if found is None else np.asarray(found, np.float32)
        boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
        return Faces(boxes, rows[:, 14], rows[:, 4:14].reshape(-1, 5, 2))
