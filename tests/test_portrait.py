"""`--region portrait`: a new face with all that is drawn about it."""

from dataclasses import replace

import numpy as np
import pytest

from deid.faces.alignment import apply_affine, five_points
from deid.gate.face import KEPT, Face
from deid.gate.find import acquaint
from deid.gate.geometry import Geometry, replaced_region, whole_region
from deid.imaging.align import Square
from deid.imaging.paste import Region, coverage, hull_of_landmarks, paste, soft_region
from deid.imaging.portrait import portrait_region
from deid.pixels import Pixels
from tests.test_photo import Known, anonymized, components, core, face_at, is_noise, noise
from tests.test_region import landmarks

WIDE, HIGH, SIDE = 700, 400, 240
"""Of a picture, and of the FFHQ square of each face in it, about."""


def person(left: float, top: float) -> Geometry:
    """A face whose square begins there."""
    points = landmarks() + np.array([left, top])
    square = Square(five_points(points))
    upright = apply_affine(square.to_crop(SIDE), points)
    hull = apply_affine(square.to_picture(SIDE), hull_of_landmarks(upright))
    box = np.array([*points.min(0), *points.max(0)])
    return Geometry(box, square, hull, others=())


def alpha_of(region: Region) -> np.ndarray:
    """Over the whole picture."""
    whole = np.zeros((HIGH, WIDE), np.float32)
    x0, y0, x1, y1 = region.window
    whole[y0:y1, x0:x1] = region.alpha
    return whole


def corners(face: Geometry) -> np.ndarray:
    unit = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    return apply_affine(face.square.to_picture(1), unit)


def test_it_covers_the_square_and_ends_with_it() -> None:
    face = person(220, 80)
    alpha = alpha_of(replaced_region(face, "swap", (HIGH, WIDE, 3)))
    (x0, y0), (x1, y1) = corners(face)[[0, 2]]
    side = face.square.side
    inner = np.s_[round(y0 + 0.1 * side) : round(y1 - 0.06 * side), round(x0 + 0.1 * side) : -1]
    assert (alpha[inner[0], round(x0 + 0.1 * side) : round(x1 - 0.1 * side)] == 1).all()
    beyond = np.ones_like(alpha, bool)
    beyond[round(y0) - 1 : round(y1) + 2, round(x0) - 1 : round(x1) + 2] = False
    assert not alpha[beyond & (alpha_of(whole_region(face, "swap", alpha.shape)) == 0)].any()
    steps = np.abs(np.diff(alpha[round((y0 + y1) / 2)]))
    assert steps.max() < 0.15, "a border that one sees"


def test_it_goes_on_to_the_edge_of_a_picture_that_is_little_more_than_the_square() -> None:
    face = person(0, 0)
    shape = (SIDE, SIDE, 3)
    region = replaced_region(face, "swap", shape)
    x0, y0, x1, y1 = region.window
    assert (x0, y0, x1, y1) == (0, 0, SIDE, SIDE)
    rim = np.concatenate([region.alpha[0], region.alpha[-1], region.alpha[:, 0]])
    near = np.abs(corners(face) - [[0, 0], [SIDE, 0], [SIDE, SIDE], [0, SIDE]]).max()
    assert near < 0.04 * SIDE
    assert (rim == 1).all()


def test_the_whole_face_is_covered_and_the_others_are_left_to_their_own() -> None:
    one, two = person(120, 80), person(290, 80)  # their squares overlap
    together = [replace(one, others=(two.hull,)), replace(two, others=(one.hull,))]
    for face, other in zip(together, (two, one), strict=True):
        region = replaced_region(face, "swap", (HIGH, WIDE, 3))
        assert face.hull is not None
        assert other.hull is not None
        assert coverage(face.hull, [region], (HIGH, WIDE, 3)) == 1.0
        middle = np.rint(other.square.points.mean(0)).astype(int)
        assert alpha_of(region)[middle[1], middle[0]] == 0
        assert coverage(other.hull, [region], (HIGH, WIDE, 3)) < 0.02
    alone = alpha_of(replaced_region(one, "swap", (HIGH, WIDE, 3)))
    among = alpha_of(replaced_region(together[0], "swap", (HIGH, WIDE, 3)))
    assert among.sum() < alone.sum()


@pytest.mark.parametrize("level", ["blur", "pixelate", "mask", "fgsm"])
def test_what_draws_no_face_replaces_no_more_than_the_face(level: str) -> None:
    face, shape = person(220, 80), (HIGH, WIDE, 3)
    given, wanted = (of(face, level, shape) for of in (replaced_region, whole_region))
    assert np.array_equal(given.alpha, wanted.alpha)


def test_faces_that_are_found_late_and_those_before_know_each_other() -> None:
    early = [Face(replace(person(x, 80), others=None), 1.0, 0, ("swap", "mask")) for x in (0, 220)]
    acquaint(early)
    shape = (HIGH, WIDE, 3)
    alone = alpha_of(early[0].region(shape)).sum()
    late = Face(replace(person(120, 90), others=None), 1.0, 0, ("swap", "mask"))
    acquaint([*early, late])
    for face in (*early, late):
        assert face.geometry.others is not None
        assert len(face.geometry.others) == 2
    middle = np.rint(late.geometry.square.points.mean(0)).astype(int)
    assert alpha_of(early[0].region(shape))[middle[1], middle[0]] == 0
    assert alpha_of(early[0].region(shape)).sum() < alone


def test_who_stays_as_they_are_keeps_hair_and_background() -> None:
    kept = Face(replace(person(290, 80), others=None), 1.0, 0, (KEPT, "mask"))
    other = Face(replace(person(120, 80), others=None), 1.0, 0, ("swap", "mask"))
    acquaint([kept, other])
    alpha = alpha_of(other.region((HIGH, WIDE, 3)))
    (x0, y0), (x1, y1) = corners(kept.geometry)[[0, 2]]
    theirs = np.zeros_like(alpha, bool)
    theirs[round(y0) + 2 : round(y1) - 2, round(x0) + 2 : round(x1) - 2] = True
    assert other.geometry.hull is not None
    reach = 0.04 * other.geometry.square.side
    own = alpha_of(soft_region(other.geometry.hull, alpha.shape, reach)) > 0
    assert alpha[theirs & ~own].max() < 0.02


def test_nothing_but_the_face_counts_as_handled() -> None:
    """Somebody else within the square is to be found by the sweep."""
    face = Face(person(220, 80), 1.0, 0, ("swap", "mask"))
    beside = np.array([[0.86, 0.1], [0.95, 0.1], [0.95, 0.2], [0.86, 0.2]])
    outline = apply_affine(face.geometry.square.to_picture(1), beside)
    shape = (HIGH, WIDE, 3)
    assert coverage(outline, [face.region(shape)], shape) > 0.9
    assert coverage(outline, [face.whole(shape)], shape) == 0


def test_a_turned_square_ends_where_the_picture_goes_on() -> None:
    turn = np.deg2rad(30)
    points = (landmarks() - SIDE / 2) @ np.array(
        [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
    ) + [90, 200]
    square = Square(five_points(points))
    hull = apply_affine(
        square.to_picture(SIDE), hull_of_landmarks(apply_affine(square.to_crop(SIDE), points))
    )
    alpha = alpha_of(portrait_region(square, hull, (), (HIGH, WIDE, 3)))
    y, x = np.mgrid[:HIGH, :WIDE] + 0.5
    u, v = (a * x + b * y + c for a, b, c in square.to_crop(1))
    beyond = (np.minimum(u, v) < -0.01) | (np.maximum(u, v) > 1.01)
    room = (x > 0.06 * SIDE) & (y > 0.06 * SIDE)
    assert alpha[beyond & room].max() < 0.5
    assert max(np.abs(np.diff(alpha, axis=axis)).max() for axis in (0, 1)) < 0.3


def test_hair_and_background_become_those_of_the_new_face() -> None:
    random = np.random.default_rng(0)
    picture: Pixels = random.integers(0, 255, (HIGH, WIDE, 3)).astype(np.uint8)
    face, before = person(220, 80), picture.copy()
    region = portrait_region(face.square, face.hull, (), picture.shape)  # type: ignore[arg-type]
    paste(picture, np.full((64, 64, 3), 120, np.uint8), face.square, region, True, around=True)
    whole = alpha_of(region)
    assert np.array_equal(picture[whole == 0], before[whole == 0])
    noise = picture[whole == 1].astype(float).reshape(-1, 3)
    assert noise.std(0).max() < 25 < before[whole == 1].std(0).min(), "the old pixels shine through"


def two_faces(**changes: object) -> tuple[Pixels, Pixels, list[str]]:
    """A picture of noise with two faces side by side, what becomes of it, and their verdicts."""
    picture = noise(3, 160, 320)
    parts = components(
        detector=Known([face_at(20, 20, 120), face_at(170, 20, 120)]), region="portrait", **changes
    )
    after, faces = anonymized(picture, parts)
    return picture, after, [face.verdict for face in faces]


def test_a_run_draws_all_that_is_about_a_face() -> None:
    before, after, verdicts = two_faces()
    assert verdicts == ["verified", "verified"]
    for x in (20, 170):
        assert not is_noise(core(after, x, 20, 120))
        above = after[31:38, x + 30 : x + 90].astype(float)  # beyond the hull, within the square
        assert np.abs(np.diff(above, axis=1)).mean() < 10
    assert np.array_equal(after[:, 300:], before[:, 300:])


def test_a_run_leaves_who_is_kept_and_all_about_them() -> None:
    class Chosen:
        def keeps(self, _: Pixels, face: Face) -> bool:
            return bool(face.geometry.box[0] > 150)

    before, after, verdicts = two_faces(chooser=Chosen())
    assert verdicts == ["verified", "kept"]
    assert not is_noise(core(after, 20, 20, 120))
    assert np.array_equal(after[20:140, 170:290], before[20:140, 170:290])


def test_it_takes_the_light_of_its_picture_unless_nothing_is_to_be_kept() -> None:
    """`Paint` paints in one color, and the picture about a face has others."""
    spread = []
    for relit in (False, True):
        _, after, verdicts = two_faces(relit=relit)
        assert verdicts == ["verified", "verified"]
        spread.append(np.ptp(core(after, 20, 20, 120).reshape(-1, 3), axis=0).max())
    assert spread[0] == 0 < spread[1]
