"""YuNet by ONNX Runtime says what OpenCV's own reading of the same file says."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from deid.faces.detection.yunet import OVERLAP, THRESHOLD, Yunet
from deid.pixels import Pixels
from tests.scenes import Trials, compose, photographs

FILE = "weights/face_detection_yunet_2023mar.onnx"


def by_opencv(file: Path, picture: Pixels) -> np.ndarray:
    """`[K,15]`: box as x, y, width, height; five points; score."""
    height, width = picture.shape[:2]
    network = cv2.FaceDetectorYN.create(str(file), "", (width, height), THRESHOLD, OVERLAP)
    _, found = network.detect(np.ascontiguousarray(picture[..., ::-1]))
    return np.zeros((0, 15), np.float32) if found is None else np.asarray(found)


@pytest.mark.parametrize("size", [(360, 640), (333, 517), (96, 64), (40, 700)])
def test_it_finds_the_same_faces_at_the_same_places(assets: Path, size: tuple[int, int]) -> None:
    """Whatever the picture's size, though the file fixes one."""
    finder = Yunet(assets / FILE)
    heads = photographs(assets / "photoreal", 6)
    people = 4 if min(size) > 300 else 1
    scene = compose(5, heads, people, size, Trials(turned=0.2), (30, 120))
    expected, found = by_opencv(assets / FILE, scene.pixels), finder.find(scene.pixels)
    assert len(found) == len(expected)
    assert len(found) >= people // 2
    for row in expected:
        place = int(np.abs(found.scores - row[14]).argmin())
        box = np.concatenate([row[:2], row[:2] + row[2:4]])
        assert found.scores[place] == pytest.approx(row[14], abs=1e-4)
        assert np.allclose(found.boxes[place], box, atol=0.02)
        assert np.allclose(found.points[place], row[4:14].reshape(5, 2), atol=0.02)


def test_what_is_below_its_threshold_is_not_answered(assets: Path) -> None:
    picture = photographs(assets / "photoreal", 1)[0].rgb
    assert len(Yunet(assets / FILE).find(picture)) == 1
    assert len(Yunet(assets / FILE, threshold=0.999).find(picture)) == 0
    assert len(Yunet(assets / FILE).find(np.zeros((5, 7, 3), np.uint8))) == 0


def test_a_file_of_another_network_is_refused(assets: Path) -> None:
    with pytest.raises(ValueError, match="YuNet"):
        Yunet(assets / "weights/scrfd_2.5g_bnkps.onnx")
