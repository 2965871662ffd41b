"""SCRFD (Guo et al. 2022) through InsightFace, on the CPU. Weights: non-commercial research."""

from pathlib import Path

import cv2
import numpy as np

from deid.errors import DeidError, missing_extra
from deid.faces.faces import Faces
from deid.pixels import Pixels
from deid.weights.onnx_session import open_session

THRESHOLD, CONFIDENCE_THRESHOLD = 0.25, 0.4
OVERLAP = 0.4  # of boxes that overlap more in one pass, the library keeps the better one
STRIDE = 32


class Scrfd:
    """One pass of SCRFD; satisfies `SinglePassDetector`. `ValueError` where it gives no points."""

    scale_invariant = False
    rotation_invariant = False

    def __init__(
        self,
        file: Path,
        threshold: float = THRESHOLD,
        confidence_threshold: float = CONFIDENCE_THRESHOLD,
    ) -> None:
        try:
            from insightface.model_zoo import SCRFD
        except ModuleNotFoundError as error:
            raise DeidError(missing_extra(error, "photo")) from None

        session = open_session(file)
        if len(session.get_outputs()) != 9:
            raise ValueError("it has no five points for each face")
        self.name, self.threshold = f"scrfd:{file.stem}", threshold
        self.confidence_threshold = confidence_threshold
        self.network = SCRFD(model_file=str(file), session=session)
        # The library's own default, 0.5, misses faces.
        self.network.prepare(-1, det_thresh=threshold, nms_thresh=OVERLAP)
        # Some copies stamp one input size into the file; they are shown that size only.
        self._fixed: tuple[int, int] | None = self.network.static_input_size

    def find(self, picture: Pixels) -> Faces:
        """See `SinglePassDetector`."""
        height, width = picture.shape[:2]
        size = self._fixed or (-(-width // STRIDE) * STRIDE, -(-height // STRIDE) * STRIDE)
        bgr = np.ascontiguousarray(picture[..., ::-1])
        if self._fixed is None:
            # Padded here, so that the network's input is the picture at exactly this scale.
            pad = (0, size[1] - height, 0, size[0] - width)
            bgr = np.asarray(cv2.copyMakeBorder(bgr, *pad, cv2.BORDER_CONSTANT), dtype=np.uint8)
        found, points = self.network.detect(bgr, input_size=size)
        return Faces(
            np.asarray(found[:, :4], np.float32),
            np.asarray(found[:, 4], np.float32),
            np.asarray(points, np.float32).reshape(-1, 5, 2),
        )
