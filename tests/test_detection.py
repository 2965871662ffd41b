"""Detection: nothing is missed, whatever its size, turn or place, and the work stays bounded."""

import itertools
import json
import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.detection import match, native_scene
from deid.batch.pipeline import build_pipeline
from deid.batch.settings import RunSettings
from deid.errors import DeidError
from deid.faces.detection import Detector, build_detector, build_network, weights_of
from deid.faces.detection import views as views_module
from deid.faces.detection.boxes import areas, iou, suppress
from deid.faces.detection.merge import CLOSE_UPS, Pass, merge_detections
from deid.faces.detection.mtcnn import load_mtcnn, pyramid
from deid.faces.detection.multi_scale import close_up, run_passes
from deid.faces.detection.scrfd import Scrfd
from deid.faces.detection.views import (
    AROUND,
    EIGHTHS,
    TILE,
    close_up_view,
    multi_scale_levels,
    multi_scale_views,
    resized,
    rotated,
    single_view,
    tiles,
)
from deid.faces.detection.yunet import Yunet
from deid.faces.faces import Faces
from deid.nets.mtcnn import NAMES, mtcnn_net
from deid.pixels import Pixels
from deid.weights.importers import import_content
from deid.weights.importers.mtcnn import MTCNN_FORMATS, convert
from deid.worlds.world import World
from tests.scenes import ALIGNED_FACE, Composed, Trials, compose, photographs, rendered
from tests.toy import toy_world

SCRFD, YUNET = "weights/det_500m.onnx", "weights/face_detection_yunet_2023mar.onnx"
PUBLIC = {"scrfd": SCRFD, "yunet": YUNET, "mtcnn": "weights"}
RED, GREEN = (250, 10, 10), (10, 250, 10)


@dataclass
class Markers:
    """Finds one red disc, and as its points the green dot in its upper left."""

    name: str = "markers"
    threshold: float = 0.5
    confidence_threshold: float = 0.5
    scale_invariant: bool = False
    rotation_invariant: bool = False

    def find(self, picture: Pixels) -> Faces:
        r, g, b = np.moveaxis(picture, 2, 0)
        red, green = (r > 150) & (g < 100) & (b < 100), (g > 150) & (r < 100) & (b < 100)
        if red.sum() < 30 or not green.any():
            return Faces.none()
        low, high = _extent(red | green)
        dot = (np.argwhere(green).mean(0) + 0.5)[::-1]
        box = np.concatenate([low, high]).astype(np.float32)
        return Faces(box[None], np.ones(1, np.float32), np.tile(dot, (1, 5, 1)).astype(np.float32))


def _extent(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    at = np.argwhere(mask)[:, ::-1]
    return at.min(0).astype(float), at.max(0) + 1.0


def marked(height: int, width: int, x: int, y: int, side: int) -> Pixels:
    """A gray picture with one marker `side` pixels wide, its dot a quarter as wide."""
    picture = np.full((height, width, 3), 128, np.uint8)
    from_middle = np.arange(side) + 0.5 - side / 2
    disc = np.hypot(from_middle[:, None], from_middle) <= side / 2
    picture[y : y + side, x : x + side][disc] = RED
    quarter = side // 4
    picture[y + quarter : y + 2 * quarter, x + quarter : x + 2 * quarter] = GREEN
    return picture


@dataclass
class Scripted:
    """Answers nothing, and counts what it is shown."""

    name: str = "scripted"
    threshold: float = 0.5
    confidence_threshold: float = 0.5
    scale_invariant: bool = False
    rotation_invariant: bool = False
    shown: int = 0
    largest: int = 0

    def find(self, picture: Pixels) -> Faces:
        self.shown += picture.shape[0] * picture.shape[1]
        self.largest = max(self.largest, *picture.shape[:2])
        return Faces.none()


def faces(*rows: tuple[float, Sequence[float]]) -> Faces:
    """Faces of given scores and boxes; their points are the boxes' middles."""
    boxes = np.array([box for _, box in rows], np.float32).reshape(-1, 4)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    scores = np.array([score for score, _ in rows], np.float32)
    return Faces(boxes, scores, np.repeat(middle[:, None], 5, 1))


# Where a view's faces lie in the picture


@settings(max_examples=40)
@given(
    side=st.integers(24, 80),
    x=st.integers(0, 220),
    y=st.integers(0, 120),
    scale=st.sampled_from([0.5, 0.75, 1.0, 2.0]),
    degrees=st.sampled_from(EIGHTHS),
)
def test_what_is_found_in_a_turned_view_lies_where_it_is_in_the_picture(
    side: int, x: int, y: int, scale: float, degrees: int
) -> None:
    picture = marked(200, 300, x, y, side)
    view = rotated(views_module.View(*resized(picture, scale)), degrees)
    found = view.to_faces(Markers().find(view.pixels))
    assert len(found) == 1
    middle = (found.boxes[0, :2] + found.boxes[0, 2:]) / 2
    slack = 1.0 + 0.6 / scale  # a pixel of the view, and the soft edge of a warp
    assert np.abs(middle - [x + side / 2, y + side / 2]).max() < slack
    dot = [x + side // 4 * 1.5, y + side // 4 * 1.5]
    assert np.abs(found.points[0] - dot).max() < slack
    if degrees % 90 == 0:
        assert np.abs(found.boxes[0] - [x, y, x + side, y + side]).max() < slack


@settings(max_examples=30)
@given(
    side=st.integers(24, 300),
    x=st.integers(-20, 220),
    y=st.integers(-20, 120),
    degrees=st.integers(-180, 180),
)
def test_a_close_up_view_shows_a_face_large_with_its_eyes_level_wherever_it_is(
    side: int, x: int, y: int, degrees: int
) -> None:
    whole = marked(520, 620, x + 50, y + 50, side)
    picture = whole[50:-50, 50:-50]  # so that it may be cut by the frame
    across = np.array([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))])
    points = np.concatenate([[[0, 0], across], np.zeros((3, 2))]).astype(np.float32)
    view = close_up_view(picture, np.array([x, y, x + side, y + side], np.float32), points)
    assert view is not None
    assert view.pixels.shape == (AROUND, AROUND, 3)
    eyes = np.linalg.solve(view.to_picture[:, :2], across)
    assert eyes[0] > 0
    assert abs(eyes[1]) < 1e-6
    found = view.to_faces(Markers().find(view.pixels))
    if x >= 0 and y >= 0 and degrees % 90 == 0 and max(x, y) + side < 400:
        assert np.abs(found.boxes[0] - [x, y, x + side, y + side]).max() < 2 + side / 60


def test_there_is_no_close_up_view_of_nothing() -> None:
    picture, points = np.zeros((40, 40, 3), np.uint8), np.zeros((5, 2), np.float32)
    for box in ([10, 10, 10, 30], [30, 30, 10, 10], [300, 300, 320, 330]):
        assert close_up_view(picture, np.array(box, np.float32), points) is None


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_quarter_turns_are_exact(degrees: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (7, 11, 3), dtype=np.uint8)
    view = rotated(views_module.View(*resized(picture, 1.0)), degrees)
    for row in range(view.pixels.shape[0]):
        for column in range(view.pixels.shape[1]):
            x, y = view.to_picture @ [column + 0.5, row + 0.5, 1.0]
            assert np.array_equal(view.pixels[row, column], picture[int(y), int(x)])


@settings(max_examples=15)
@given(x=st.integers(0, 3400), y=st.integers(0, 240), side=st.integers(20, 60))
def test_a_marker_in_a_large_picture_is_found_once_and_exactly(x: int, y: int, side: int) -> None:
    picture = marked(300, 3500, x, y, side)
    plan = [views_module.Level(1.0, (0,))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(views_module, "multi_scale_levels", lambda *_: plan)
        found = Detector([Markers()]).detect([picture])[0]
    assert len(found) == 1
    assert found.boxes[0].tolist() == [x, y, x + side, y + side]


@settings(max_examples=30)
@given(height=st.integers(1, 40), width=st.integers(1, 20000))
def test_tiles_cover_every_pixel_and_none_is_larger_than_allowed(height: int, width: int) -> None:
    for turned_over in (False, True):
        _check_tiles(*((width, height) if turned_over else (height, width)))


def _check_tiles(height: int, width: int) -> None:
    seen = np.zeros((height, width), np.bool_)
    blank = np.broadcast_to(np.uint8(0), (height, width, 3))
    for tile in tiles(views_module.View(blank, np.eye(2, 3))):
        x, y = tile.to_picture[:, 2].astype(int)
        assert max(tile.pixels.shape[:2]) <= TILE
        seen[y : y + tile.pixels.shape[0], x : x + tile.pixels.shape[1]] = True
    assert seen.all()


def test_the_multi_scale_mode_finds_a_marker_once_in_many_passes() -> None:
    picture = marked(300, 400, 150, 90, 40)
    for scale_invariant in (False, True):
        found = Detector([Markers(scale_invariant=scale_invariant)]).detect([picture])[0]
        assert len(found) == 1
        assert iou(found.boxes[0], np.array([[150, 90, 190, 130]], np.float32))[0] > 0.8


@pytest.mark.parametrize("rotation_invariant", [False, True])
def test_a_face_larger_than_tiles_overlap_is_whole_somewhere_even_in_one_scale_invariant_pass(
    rotation_invariant: bool,
) -> None:
    picture = marked(900, 2400, 700, 50, 800)
    found = Detector([Markers(scale_invariant=True, rotation_invariant=rotation_invariant)]).detect(
        [picture]
    )[0]
    assert iou(np.array([700, 50, 1500, 850], np.float32), found.boxes).max() > 0.9


# How much is shown


@pytest.mark.parametrize(
    ("height", "width"),
    [(8000, 10000), (30000, 2600), (2, 30000), (1, 1), (4000, 6000), (1000, 2000), (300, 400)],
)
@pytest.mark.parametrize(
    ("scale_invariant", "rotation_invariant"), [(False, False), (True, False), (True, True)]
)
def test_the_work_is_bounded_for_every_picture(
    height: int, width: int, scale_invariant: bool, rotation_invariant: bool
) -> None:
    """Counted by the plan, because a picture of 80 megapixels takes its time to be turned."""
    shown = 0.0
    for level in multi_scale_levels(height, width, scale_invariant, rotation_invariant):
        h, w = level.scale * height, level.scale * width
        eighths = sum(t % 90 != 0 for t in level.rotations)
        shown += (len(level.rotations) - eighths) * h * w + eighths * (h + w) ** 2 / 2
        assert h * w <= max(views_module.ENLARGE, height * width) * 1.01
    assert shown < max(40.0 * height * width, 250e6)
    assert shown < 250e6


def test_what_its_own_pyramid_sees_is_not_shown_to_a_network_again() -> None:
    for side in (768, 1024, 1350):
        levels = multi_scale_levels(side, side, True, False)
        assert [(level.scale, level.rotations) for level in levels] == [(1.0, EIGHTHS)]
        network = Scripted(scale_invariant=True)
        Detector([network]).detect([np.zeros((side, side, 3), np.uint8)])
        assert network.shown < 15 * side * side


def test_a_picture_of_few_pixels_is_enlarged_for_every_network() -> None:
    assert multi_scale_levels(100, 128, True, False)[0].scale == 2.0


@settings(max_examples=20)
@given(height=st.integers(21, 500), width=st.integers(21, 500), seed=st.integers(0, 99))
def test_a_pyramid_from_halves_is_that_from_the_whole_picture_but_for_rounding(
    height: int, width: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    noise = random.integers(0, 256, (height, width, 3), np.uint8)
    picture = cv2.GaussianBlur(noise, (0, 0), 3)
    for level in pyramid(np.asarray(picture, np.uint8)):
        size = (level.shape[1], level.shape[0])
        directly = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        assert np.abs(level.astype(int) - directly).max() <= 8
    assert min(size) >= 12


def test_a_bomb_of_a_picture_is_shown_in_tiles_of_bounded_number() -> None:
    network = Scripted()
    assert len(Detector([network]).detect([np.zeros((30, 30000, 3), np.uint8)])[0]) == 0
    assert network.largest <= TILE
    assert network.shown < 80e6


def test_the_single_pass_has_the_size_it_is_told() -> None:
    network = Scripted()
    Detector([network], size=320).detect([np.zeros((300, 600, 3), np.uint8)])
    assert (network.shown, network.largest) == (320 * 160, 320)
    view = single_view(marked(300, 600, 100, 100, 60), 320)
    found = view.to_faces(Markers().find(view.pixels))
    assert np.abs(found.boxes[0] - [100, 100, 160, 160]).max() < 2.5


def test_every_pixel_of_a_large_picture_is_shown_at_full_resolution() -> None:
    finest = multi_scale_levels(4000, 6000, False, False)[0]
    assert finest.scale >= 1.0
    finest = multi_scale_levels(1000, 1500, False, False)[0]
    assert finest.scale >= 2.0


# One face, one answer


def test_of_boxes_that_overlap_the_most_certain_stays() -> None:
    found = faces((0.5, (0, 0, 10, 10)), (0.9, (1, 1, 11, 11)), (0.7, (20, 20, 30, 30)))
    merged = merge_detections([Pass(found, 0.4)], (50, 50))
    assert merged.scores.tolist() == pytest.approx([0.9, 0.7])
    assert merged.boxes[:, 0].tolist() == [1, 20]
    assert merged.points[0, 0].tolist() == [6, 6]


def test_a_part_of_a_face_is_no_second_face_and_the_whole_stays_covered() -> None:
    """A network that is surer of the eyes than of the face must not leave the chin uncovered."""
    parts = faces((0.9, (22, 20, 48, 45)), (0.85, (20, 18, 50, 58)), (0.5, (22, 38, 44, 58)))
    merged = merge_detections([Pass(parts, 0.4)], (100, 100))
    assert merged.boxes.tolist() == [[20, 18, 50, 58]]


def test_a_small_certain_box_does_not_swallow_a_much_larger_face() -> None:
    pair = faces((0.9, (40, 40, 60, 60)), (0.7, (0, 0, 100, 100)))
    assert len(merge_detections([Pass(pair, 0.4)], (100, 100))) == 2


def test_a_suspect_is_a_face_if_the_close_up_confirms_it() -> None:
    doubtful, certain = faces((0.3, (10, 10, 40, 50))), faces((0.9, (60, 10, 90, 50)))
    passes = [Pass(doubtful, 0.5), Pass(certain, 0.5)]
    assert len(merge_detections(passes, (100, 100))) == 1  # with no close-up, the confident one
    assert len(merge_detections(passes, (100, 100), lambda *face: True)) == 2
    assert len(merge_detections(passes, (100, 100), lambda *face: False)) == 0
    first = merge_detections(passes, (100, 100), lambda box, points, hidden: bool(box[0] < 50))
    assert first.boxes.tolist() == [[10, 10, 40, 50]]


@pytest.mark.parametrize(("confident", "shown"), [(0.72, 4), (0.65, 5)])
def test_with_a_false_giant_its_doubtful_like_go_but_not_the_faces_in_it(
    confident: float, shown: int
) -> None:
    giants = [(0.9, (0, 20, 280, 100)), (0.7, (0, 0, 300, 100))]
    crowd = [(0.8, (10, 20, 90, 100)), (0.75, (110, 20, 190, 100)), (0.6, (210, 20, 290, 100))]
    asked = []

    def small(box: np.ndarray, points: np.ndarray, hidden: np.ndarray) -> bool:
        asked.append(box)
        return bool(box[2] - box[0] < 100)

    merged = merge_detections([Pass(faces(*giants, *crowd), confident)], (100, 300), small)
    assert merged.scores.tolist() == pytest.approx([0.8, 0.75, 0.6])
    assert (
        len(asked) == shown
    )  # the lesser giant goes with the greater unless it was confident itself


def test_a_suspect_is_shown_without_the_smaller_much_surer_faces_in_it() -> None:
    crowd = [(0.95, (10, 10, 40, 40)), (0.9, (60, 60, 90, 90)), (0.55, (10, 60, 40, 90))]
    beside, giant = (0.93, (150, 10, 180, 40)), (0.5, (0, 0, 100, 100))
    hidden = {}

    def confirm(box: np.ndarray, points: np.ndarray, inner: np.ndarray) -> bool:
        hidden[tuple(box.tolist())] = inner.tolist()
        return True

    merge_detections([Pass(faces(*crowd, beside, giant), 0.4)], (200, 200), confirm)
    assert hidden.pop((0, 0, 100, 100)) == [[10, 10, 40, 40], [60, 60, 90, 90]]
    assert hidden
    assert not any(hidden.values())


@dataclass
class Gullible:
    """Finds red discs, takes several of them for a giant's face, and finds a blue giant."""

    name: str = "gullible"
    threshold: float = 0.3
    confidence_threshold: float = 0.4
    scale_invariant: bool = True
    rotation_invariant: bool = True

    def find(self, picture: Pixels) -> Faces:
        r, g, b = np.moveaxis(picture.astype(int), 2, 0)
        red = ((r > 220) & (g < 60) & (b < 60)).astype(np.uint8)  # not a mean over its surroundings
        parts = cv2.connectedComponentsWithStats(red)[2][1:]
        boxes = [(x, y, x + w, y + h) for x, y, w, h, area in parts.tolist() if area > 80]
        rows: list[tuple[float, Sequence[float]]] = [(0.95, box) for box in boxes]
        if len(boxes) > 1:
            rows.append((0.5, [*np.min(boxes, 0)[:2], *np.max(boxes, 0)[2:]]))
        blue = (b > 150) & (r < 100)
        if blue.sum() > 400:
            rows.append((0.5, np.concatenate(_extent(blue)).tolist()))
        return faces(*rows)


@pytest.mark.parametrize(("rows", "columns", "gap"), [(2, 2, 8), (4, 4, 0), (5, 4, 16), (1, 3, 4)])
def test_a_grid_of_portraits_is_its_portraits_and_no_giant(
    rows: int, columns: int, gap: int
) -> None:
    portrait = marked(60, 60, 15, 12, 30)
    tile = np.pad(portrait, ((0, gap), (0, gap), (0, 0)), constant_values=255)
    tile[(tile[..., 1] > 200) & (tile[..., 0] < 100)] = RED
    found = Detector([Gullible()]).detect([np.tile(tile, (rows, columns, 1))])[0]
    assert len(found) == rows * columns
    assert areas(found.boxes).max() < 60 * 60


def test_a_large_face_stays_with_smaller_much_surer_ones_before_and_beside_it() -> None:
    picture = np.full((300, 400, 3), 128, np.uint8)
    cv2.ellipse(picture, (200, 150), (90, 120), 0, 0, 360, (10, 10, 250), -1)
    for x, y in ((150, 180), (220, 200), (330, 60)):
        cv2.circle(picture, (x, y), 15, RED, -1)
    found = Detector([Gullible()]).detect([picture])[0]
    assert iou(np.array([110, 30, 290, 270], np.float32), found.boxes).max() > 0.8
    assert (areas(found.boxes) < 40 * 40).sum() == 3


@pytest.mark.parametrize("score", [0.5, 0.95])
def test_a_much_smaller_face_before_a_larger_one_is_a_face_of_its_own(score: float) -> None:
    pair = faces((0.9, (0, 0, 100, 100)), (score, (5, 60, 35, 95)))
    assert len(merge_detections([Pass(pair, 0.4)], (100, 100))) == 2


def test_close_ups_are_bounded_and_beyond_them_a_confident_pass_is_accepted() -> None:
    corners = [(i % 50 * 10.0, i // 50 * 10.0) for i in range(1500)]
    grid = [(0.9 - i * 1e-4, (x, y, x + 8, y + 8)) for i, (x, y) in enumerate(corners)]
    asked = []
    merged = merge_detections(
        [Pass(faces(*grid), 0.77005)], (400, 600), lambda *face: bool(asked.append(face))
    )
    assert len(asked) == CLOSE_UPS
    sure = sum(score > 0.77005 for score, _ in grid)
    assert len(merged) == sure - CLOSE_UPS


def test_what_is_not_a_number_or_outside_the_frame_is_no_face() -> None:
    odd = faces((0.9, (-30, 10, -5, 40)), (0.9, (np.nan, 0, 1, 1)), (0.9, (90, 90, 140, 140)))
    merged = merge_detections([Pass(odd, 0.5)], (100, 100))
    assert merged.boxes.tolist() == [[90, 90, 100, 100]]
    assert len(merge_detections([], (100, 100))) == 0


def test_overlap_and_suppression_are_those_of_torchvision() -> None:
    random = np.random.default_rng(1)
    low = random.uniform(0, 120, (200, 2))
    boxes = np.concatenate([low, low + random.uniform(0, 60, (200, 2))], 1).astype(np.float32)
    scores = random.random(200).astype(np.float32)
    all_boxes, all_scores = torch.from_numpy(boxes), torch.from_numpy(scores)
    expected = torchvision.ops.box_iou(all_boxes[:20], all_boxes).numpy()
    assert np.abs(np.stack([iou(box, boxes) for box in boxes[:20]]) - expected).max() < 1e-6
    for limit in (0.1, 0.4, 0.7):
        kept = torchvision.ops.nms(all_boxes, all_scores, limit)
        assert suppress(boxes, scores, limit).tolist() == kept.tolist()


def test_suppression_agrees_with_comparing_all_pairs() -> None:
    random = np.random.default_rng(0)
    low = random.uniform(0, 120, (120, 2))
    boxes = np.concatenate([low, low + random.uniform(10, 60, (120, 2))], 1).astype(np.float32)
    scores = random.random(120).astype(np.float32)
    kept: list[int] = []
    for index in np.argsort(-scores):
        if all(iou(boxes[index], boxes[[other]])[0] <= 0.4 for other in kept):
            kept.append(int(index))
    assert suppress(boxes, scores, 0.4).tolist() == kept


# Specs


def test_a_detector_says_what_it_is_and_from_which_score_it_believes(world: World) -> None:
    multi, once = build_detector(None, world), build_detector((), world, 640)
    assert build_detector(("mini",), world).name == multi.name
    assert re.fullmatch(r"mini:[0-9a-f]{8}@[0-9.]+/[0-9.]+, multi-scale", multi.name)
    assert once.name == multi.name.replace("multi-scale", "640 px")
    assert build_detector(None, toy_world()) is toy_world().detector


@pytest.mark.parametrize("size", [0, -5, 63, 5000])
def test_a_senseless_detection_size_is_refused(world: World, size: int) -> None:
    with pytest.raises(DeidError, match="detection size"):
        build_detector(None, world, size)


@pytest.mark.parametrize("spec", ["haar=x", "haar", "mtcnn=", "toy=3", ""])
def test_an_unknown_detector_is_refused(world: World, spec: str) -> None:
    with pytest.raises(DeidError, match="unknown"):
        build_detector([spec], world)


def test_a_detector_asked_for_by_name_comes_from_the_weights_store(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DEID_WEIGHTS_DIR", raising=False)
    monkeypatch.setenv("DEID_WEIGHTS_STORE", str(tmp_path))
    with pytest.raises(DeidError, match="missing; run `deid weights fetch yunet`"):
        build_detector(["yunet"], world)


@pytest.mark.parametrize("kind", PUBLIC)
def test_a_name_and_a_path_build_the_same_detector(
    assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("DEID_WEIGHTS_DIR", str(assets / "weights"))
    monkeypatch.setenv("DEID_WEIGHTS_STORE", str(tmp_path))
    by_name, by_path = (
        build_detector([spec], toy_world()) for spec in (kind, f"{kind}={assets / PUBLIC[kind]}")
    )
    assert by_name.name == by_path.name
    assert weights_of(kind) == weights_of(f"{kind}={assets / PUBLIC[kind]}")


def test_missing_or_wrong_mtcnn_files_are_named(tmp_path: Path, world: World) -> None:
    with pytest.raises(DeidError, match="no such detector"):
        build_detector([f"mtcnn={tmp_path / 'nowhere'}"], world)
    with pytest.raises(DeidError, match=r"pnet\.pt: missing"):
        build_detector([f"mtcnn={tmp_path}"], world)
    torch.save(mtcnn_net("rnet").state_dict(), tmp_path / "pnet.pt")
    with pytest.raises(DeidError, match=r"pnet\.pt: is rnet"):
        build_detector([f"mtcnn={tmp_path}"], world)
    ran = tmp_path / "ran"
    (tmp_path / "pnet.pt").write_bytes(pickle.dumps(_Touch(ran), protocol=2))
    with pytest.raises(DeidError, match=r"pnet\.pt: not MTCNN"):
        build_detector([f"mtcnn={tmp_path}"], world)
    assert not ran.exists()


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_the_union_finds_what_any_of_its_detectors_finds() -> None:
    class At:
        threshold = confidence_threshold = 0.5
        scale_invariant, rotation_invariant = False, False

        def __init__(self, name: str, box: Sequence[float]) -> None:
            self.name, self.box = name, box

        def find(self, picture: Pixels) -> Faces:
            return faces((0.8, self.box))

    first, second = At("first", (10, 10, 40, 40)), At("second", (60, 60, 90, 90))
    picture = np.zeros((100, 100, 3), np.uint8)
    merged = Detector([first, second], size=100)
    assert merged.name == "first@0.5/0.5 + second@0.5/0.5, 100 px"
    found = merged.detect([picture, picture])
    assert [len(f) for f in found] == [2, 2]
    assert sorted(found[0].boxes[:, 0].tolist()) == [10, 60]


def test_thresholds_are_ours_and_not_the_libraries(assets: Path) -> None:
    scrfd, yunet = Scrfd(assets / SCRFD), Yunet(assets / YUNET)
    assert scrfd.network.det_thresh == scrfd.threshold == 0.25
    assert scrfd.confidence_threshold == 0.4
    assert (yunet.threshold, yunet.confidence_threshold) == (0.3, 0.5)
    for network in (scrfd, yunet):
        assert f"@{network.threshold}/{network.confidence_threshold}" in Detector([network]).name


def test_the_detector_and_its_mode_are_part_of_the_settings_on_record(assets: Path) -> None:
    specs = (f"scrfd={assets / SCRFD}", f"mtcnn={assets / 'weights'}")
    assert [file.name for file in weights_of(specs[1])] == [f"{part}.pt" for part in NAMES]
    asked = [
        RunSettings(method="mask", detectors=specs),
        RunSettings(method="mask", detectors=specs[:1]),
        RunSettings(method="mask", detectors=specs, detect_size=640),
        RunSettings(method="mask"),
    ]
    built = [build_pipeline(settings, toy_world(), None) for settings in asked]
    assert len({pipeline.fingerprint for pipeline in built}) == len(asked)
    name = "scrfd:det_500m@0.25/0.4 + mtcnn@0.7/0.9, multi-scale"
    assert built[0].components.detector.name == name


# MTCNN


@pytest.mark.parametrize("part", NAMES)
def test_mtcnn_networks_agree_with_the_reference(assets: Path, part: str) -> None:
    fixture = assets / "fixtures/mtcnn_facenet_real"
    arrays = np.load(fixture / "io.npz")
    net = load_mtcnn(assets / "weights").nets[part]
    inventory = json.loads((fixture / "inventory.json").read_text())[part]
    assert [[name, list(t.shape)] for name, t in net.state_dict().items()] == inventory
    with torch.no_grad():
        outputs = net(torch.from_numpy(arrays[f"{part}_x"]))
    for index, output in enumerate(outputs):
        wanted = arrays[f"{part}_out{index}"]
        assert np.abs(output.numpy() - wanted).max() <= 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("part", NAMES)
def test_the_importer_tells_mtcnn_files_apart_and_says_what_is_wrong(part: str) -> None:
    state = mtcnn_net(part).state_dict()
    known = MTCNN_FORMATS[0]
    assert known.matches(state)
    assert not known.matches({"conv1.weight": state["conv1.weight"]})
    imported = known.convert({**state, "extra": 3})
    assert (imported.network, dict(imported.config)) == ("mtcnn", {"part": part})
    assert imported.notes == ("left out: extra",)
    mtcnn_net(part).load_state_dict(dict(imported.state), strict=True)
    with pytest.raises(DeidError, match=r"x: .*missing: 'conv2\.bias'"):
        import_content({name: t for name, t in state.items() if name != "conv2.bias"}, "x")
    with pytest.raises(DeidError, match=r"x: .*wrong shape: 'conv2\.bias'"):
        import_content({**state, "conv2.bias": torch.zeros(3)}, "x")
    with pytest.raises(DeidError, match="NaN or infinite numbers in 'conv2"):
        import_content({**state, "conv2.bias": state["conv2.bias"] * torch.nan}, "x")
    with pytest.raises(DeidError, match="is none of"):
        convert({"weight": torch.zeros(3)})


def test_mtcnn_is_bounded_in_noise_and_finds_nothing_in_flat_color(assets: Path) -> None:
    network = load_mtcnn(assets / "weights")
    assert len(network.find(np.full((90, 120, 3), 127, np.uint8))) == 0
    assert len(network.find(np.zeros((5, 400, 3), np.uint8))) == 0


# Scenes with known truth


def test_composed_scenes_are_reproducible_and_tell_the_truth() -> None:
    heads = rendered(3, side=64)
    first, again = (compose(5, heads, 4, (200, 260)) for _ in range(2))
    assert np.array_equal(first.pixels, again.pixels)
    assert np.array_equal(first.boxes, again.boxes)
    assert not np.array_equal(first.pixels, compose(6, heads, 4, (200, 260)).pixels)
    plain = Trials(turned=0, hidden=0, cut=0)
    upright = compose(1, heads, 3, (200, 260), plain, background="gradient")
    assert (np.abs(upright.angles) <= 15).all()
    assert (upright.hidden == 0).all()
    assert (upright.cut < 0.02).all()
    tall = upright.boxes[:, 3] - upright.boxes[:, 1]
    assert (np.abs(tall - upright.heights) < 0.1 * upright.heights).all()
    cut = compose(2, heads, 6, (200, 260), Trials(turned=0, hidden=0, cut=1), sizes=(20, 40))
    assert ((cut.cut > 0.03) & (cut.cut < 0.5)).all()


def test_a_face_counts_as_found_only_where_it_is() -> None:
    box = np.array([[20, 20, 60, 70]], np.float32)
    one, none = np.ones(1, np.float32), np.zeros(1, np.float32)
    truth = Composed(np.zeros((100, 100, 3), np.uint8), box, 50 * one, none, none, none, "none")
    assert match(truth, faces((0.9, (20, 20, 60, 70))))[0].tolist() == [True]
    hits, _, _, false = match(truth, faces((0.9, (80, 80, 99, 99)), (0.8, (37, 40, 43, 48))))
    assert hits.tolist() == [False]
    assert false == 2
    assert match(truth, Faces.none())[0].tolist() == [False]


def recall(found: Sequence[Faces], scenes: Sequence[Composed]) -> float:
    """Of the faces at least 20 pixels high, the share that is found."""
    hits = [match(s, f)[0][s.heights >= 20] for f, s in zip(found, scenes, strict=True)]
    return float(np.concatenate(hits).mean())


def test_the_embedded_detector_finds_turned_and_cut_people_of_its_world(world: World) -> None:
    heads, trials = rendered(8, side=128), Trials(turned=0.5, hidden=0, cut=0.3)
    scenes = [compose(seed, heads, 5, (200, 260), trials, background="renderer") for seed in (1, 2)]
    scenes += [native_scene(1, 4, (160, 220))]
    found = build_detector(None, world).detect([scene.pixels for scene in scenes])
    assert recall(found, scenes) >= 0.95
    assert sum(match(s, f)[3] for s, f in zip(scenes, found, strict=True)) <= 1


def test_public_detectors_find_turned_small_and_large_faces(assets: Path) -> None:
    """Each nearly all of them, all together every one."""
    networks = [build_network(f"{k}={assets / f}", toy_world()) for k, f in PUBLIC.items()]
    heads, trials = photographs(assets / "photoreal", 8), Trials(turned=0.5, hidden=0, cut=0.2)
    scenes = [compose(seed, heads, 4, (220, 280), trials, background="gradient") for seed in (1, 2)]
    passes = [[run_passes(network, scene.pixels, None) for network in networks] for scene in scenes]

    def found_by(which: Sequence[int]) -> list[Faces]:
        chosen = [networks[k] for k in which]
        return [
            merge_detections(
                [view for k in which for view in seen[k]],
                scene.pixels.shape,
                close_up(chosen, scene.pixels),
            )
            for scene, seen in zip(scenes, passes, strict=True)
        ]

    for k in range(len(networks)):
        assert recall(found_by([k]), scenes) >= 0.85
    assert recall(found_by(range(len(networks))), scenes) == 1.0


def portraits_beside_each_other(folder: Path, numbers: Sequence[int]) -> Pixels:
    """Aligned portraits, 256 pixels each, from left to right."""
    heads = photographs(folder, max(numbers) + 1)
    return np.concatenate([heads[number].rgb for number in numbers], axis=1)


@pytest.mark.parametrize("first", [6, 9, 18])
def test_three_people_are_three_faces_and_no_giant(assets: Path, first: int) -> None:
    """YuNet, sure of a face as wide as the picture, once took three people to the mask with it."""
    network = Yunet(assets / YUNET)
    picture = portraits_beside_each_other(assets / "photoreal", range(first, first + 3))
    passes = run_passes(network, picture, None)
    giants = [view.faces.boxes[view.faces.scores > 0.4] for view in passes]
    assert (areas(np.concatenate(giants)) > 256 * 256).any()  # it is still suspected
    found = merge_detections(passes, picture.shape, close_up([network], picture))
    aligned = np.array(ALIGNED_FACE, np.float32) * 256
    assert len(found) == 3
    for place in range(3):
        truth = aligned + np.array([256 * place, 0] * 2, np.float32)
        assert iou(truth, found.boxes).max() > 0.5


@pytest.mark.parametrize(("rows", "columns", "gap"), [(4, 4, 0), (4, 2, 10)])
def test_a_grid_of_photographs_is_its_portraits_and_no_giant(
    assets: Path, rows: int, columns: int, gap: int
) -> None:
    """YuNet took such a grid to be a giant's face, and the whole of it was masked."""
    heads = photographs(assets / "photoreal", rows * columns)
    tiles = [
        np.pad(cv2.resize(head.rgb, (128, 128)), ((gap, 0), (gap, 0), (0, 0)), constant_values=255)
        for head in heads
    ]
    lines = [np.concatenate(tiles[k * columns : (k + 1) * columns], 1) for k in range(rows)]
    found = build_detector([f"yunet={assets / YUNET}"], toy_world()).detect([np.concatenate(lines)])
    aligned = np.array(ALIGNED_FACE, np.float32) * 128
    for k in range(rows * columns):
        x, y = gap + k % columns * (128 + gap), gap + k // columns * (128 + gap)
        assert iou(aligned + np.array([x, y] * 2, np.float32), found[0].boxes).max() > 0.5
    assert areas(found[0].boxes).max() < 128 * 128


def test_a_small_face_held_before_a_large_one_is_found_beside_it(assets: Path) -> None:
    adult, child = (head.rgb for head in photographs(assets / "photoreal", 2))
    picture = cv2.resize(adult, (768, 768), interpolation=cv2.INTER_CUBIC)
    picture[500:628, 420:548] = cv2.resize(child, (128, 128), interpolation=cv2.INTER_AREA)
    found = build_detector([f"yunet={assets / YUNET}"], toy_world()).detect([picture])[0]
    inner = np.array(ALIGNED_FACE, np.float32) * 128 + np.array([420, 500] * 2, np.float32)
    outer = np.array(ALIGNED_FACE, np.float32) * 768
    assert len(found) == 2
    assert iou(inner, found.boxes).max() > 0.5
    assert iou(outer, found.boxes).max() > 0.5


@pytest.mark.parametrize("kind", ["scrfd", "yunet", "mtcnn"])
def test_public_detectors_place_the_face_and_five_points(assets: Path, kind: str) -> None:
    head = photographs(assets / "photoreal", 1)[0]
    detector = build_detector([f"{kind}={assets / PUBLIC[kind]}"], toy_world(), size=256)
    found = detector.detect([head.rgb])[0]
    assert len(found) == 1
    assert iou(np.array(ALIGNED_FACE, np.float32) * 256, found.boxes)[0] > 0.5
    left, right, nose, left_mouth, right_mouth = found.points[0]
    assert left[0] < nose[0] < right[0]
    assert left_mouth[0] < right_mouth[0]
    assert left[1] < nose[1] < left_mouth[1]


def test_points_of_a_turned_face_keep_the_persons_order(assets: Path) -> None:
    """So that its aligned crop is upright."""
    heads = photographs(assets / "photoreal", 1)
    upside_down = heads[0].rgb[::-2, ::-2].copy()
    detector = build_detector([f"yunet={assets / YUNET}"], toy_world())
    left, right, nose, *_ = detector.detect([upside_down])[0].points[0]
    assert left[0] > nose[0] > right[0]
    assert left[1] > nose[1]


def test_tiny_faces_of_a_large_picture_are_found_in_tiles(assets: Path) -> None:
    heads = photographs(assets / "photoreal", 4)
    plain = Trials(turned=0, hidden=0, cut=0)
    scene = compose(3, heads, 12, (900, 1800), plain, sizes=(20, 26), background="gradient")
    network = Yunet(assets / YUNET)
    upright = multi_scale_views(scene.pixels, scale_invariant=False)
    views = list(itertools.takewhile(lambda view: view.to_picture[0, 0] == 0.5, upright))
    assert len(views) == 2
    found = merge_detections(
        [Pass(v.to_faces(network.find(v.pixels)), 0.5) for v in views], (900, 1800)
    )
    assert match(scene, found)[0].all()
