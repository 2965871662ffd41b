"""From brow to chin: what a new face replaces on a photograph, and how it is matched to it."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from benchmarks.seam import seam
from deid.batch.pipeline import build_pipeline
from deid.batch.settings import RunSettings
from deid.errors import DeidError
from deid.faces.alignment import apply_affine, five_points
from deid.gate.geometry import Geometry, replaced_region, whole_region
from deid.imaging.align import Square, crop_face
from deid.imaging.blend import match_contrast
from deid.imaging.paste import Region, face_region, hull_of_landmarks, paste_face
from deid.imaging.skin import skin_only
from deid.imaging.texture import match_texture
from deid.pixels import Pixels
from deid.worlds.world import World
from tests.toy import toy_world

SIDE = 240
SKIN, HAIR, BEHIND = (205, 160, 135), (60, 40, 30), (90, 110, 130)


def landmarks() -> np.ndarray:
    """68 points of a plain face in a crop of `SIDE`, as a network would see them."""
    turn = np.linspace(np.pi * 0.98, np.pi * 0.02, 17)
    jaw = np.stack([0.5 + 0.27 * np.cos(turn), 0.5 + 0.4 * np.sin(turn)], -1)
    brow = np.stack([np.linspace(-0.09, 0.09, 5), [0.0, -0.02, -0.025, -0.02, 0.0]], -1)
    brows = [brow + np.array([x, 0.41]) for x in (0.37, 0.63)]
    nose = [(0.5, y) for y in (0.48, 0.53, 0.58, 0.62)]
    base = [(x, 0.65) for x in (0.45, 0.475, 0.5, 0.525, 0.55)]
    ring = np.linspace(np.pi, 3 * np.pi, 7)[:-1]
    eyes = [
        np.stack([x + 0.05 * np.cos(ring), 0.47 + 0.02 * np.sin(ring)], -1) for x in (0.37, 0.63)
    ]
    lips = np.linspace(np.pi, 3 * np.pi, 13)[:-1]
    mouth = np.stack([0.5 + 0.1 * np.cos(lips), 0.76 + 0.035 * np.sin(lips)], -1)
    inner = np.linspace(np.pi, 3 * np.pi, 9)[:-1]
    within = np.stack([0.5 + 0.07 * np.cos(inner), 0.76 + 0.01 * np.sin(inner)], -1)
    return np.concatenate([jaw, *brows, nose, base, *eyes, mouth, within]) * SIDE


def portrait(skin: tuple[int, int, int] = SKIN, hair: tuple[int, int, int] = HAIR) -> Pixels:
    """A face of one color before a background, under hair that hangs over its left cheek."""
    picture = np.full((SIDE, SIDE, 3), BEHIND, np.uint8)
    middle = (SIDE // 2, SIDE // 2)
    cv2.ellipse(picture, middle, (int(0.36 * SIDE), int(0.46 * SIDE)), 0, 180, 360, hair, -1)
    cv2.ellipse(picture, middle, (int(0.27 * SIDE), int(0.4 * SIDE)), 0, 0, 360, skin, -1)
    cv2.rectangle(picture, (0, SIDE // 2), (int(0.29 * SIDE), SIDE), hair, -1)
    for part in (slice(36, 42), slice(42, 48), slice(48, 60)):
        cv2.fillPoly(picture, [np.rint(landmarks()[part]).astype(np.int32)], (90, 50, 50))
    return cv2.GaussianBlur(picture, (0, 0), 1.0)


def placed() -> Geometry:
    """Where that face is in its picture."""
    points = landmarks()
    box = np.array([*points.min(0), *points.max(0)])
    square = Square(five_points(points))
    upright = apply_affine(square.to_crop(SIDE), points)
    hull = apply_affine(square.to_picture(SIDE), hull_of_landmarks(upright))
    return Geometry(box, square, hull, None, points)


def pasted(made: Pixels, picture: Pixels) -> tuple[Pixels, Region]:
    """A made picture of the same face in the place of the one in `picture`."""
    face, after = placed(), picture.copy()
    crop = crop_face(made, face.square, SIDE)
    bare = skin_only(crop, apply_affine(face.square.to_crop(SIDE), landmarks()))
    return after, paste_face(after, bare, face.square, replaced_region(face, "swap", picture.shape))


def test_forehead_hair_and_background_keep_their_bytes() -> None:
    before = portrait()
    after, _ = pasted(portrait((120, 80, 60), (230, 30, 30)), before)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    kept = (y < 0.18) | (x < 0.12) | (x > 0.88) | (y > 0.97)
    assert np.array_equal(after[kept], before[kept])


def test_nothing_of_the_old_face_stays_between_brows_and_chin() -> None:
    """Whatever is there, also what does not look like skin."""
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    face = placed()
    region = replaced_region(face, "swap", noise.shape)
    other, made = noise.copy(), noise.copy()
    flat = np.full((64, 64, 3), 128, np.uint8)
    alpha = paste_face(made, flat, face.square, region).alpha
    assert region.core is not None
    assert (alpha[region.core > 0] == 1).all()
    x0, y0, x1, y1 = region.window
    low = [
        cv2.GaussianBlur(one[y0:y1, x0:x1].astype(np.float32), (0, 0), 1) for one in (other, made)
    ]
    inner = cv2.erode(region.core, np.ones((9, 9), np.uint8)) > 0
    assert abs(np.corrcoef(low[0][inner].ravel(), low[1][inner].ravel())[0, 1]) < 0.2
    ys, xs = (
        np.clip(np.rint(landmarks()[17:, k] - o), 0, None).astype(int)
        for k, o in ((1, y0), (0, x0))
    )
    assert region.core[ys, xs].mean() > 0.9, "features lie outside the core"


def test_the_whole_face_is_replaced_where_it_is_all_skin() -> None:
    face, bald = placed(), np.full((SIDE, SIDE, 3), SKIN, np.uint8)
    region = replaced_region(face, "swap", bald.shape)
    alpha = paste_face(bald.copy(), bald, face.square, region).alpha
    assert (alpha[region.alpha >= 1] == 1).all()


@pytest.mark.parametrize("color", [(120, 80, 60), (235, 200, 180), (150, 150, 190)])
def test_light_and_color_are_those_of_the_picture(color: tuple[int, int, int]) -> None:
    """A face of another color, with hair and a background of its own, leaves no seam."""
    before = portrait()
    after, region = pasted(portrait(color, (230, 30, 30)), before)
    assert seam(before, after, region, placed().square.side) <= 2.0
    y, x = round(0.58 * SIDE), round(0.4 * SIDE)
    assert np.abs(after[y, x].astype(int) - before[y, x]).max() <= 12
    red = (after[..., 0].astype(int) - after[..., 1]).max()
    assert red < 100, "hair of the made face went along"


@pytest.mark.parametrize("color", [(150, 190, 205), (235, 235, 235), (30, 30, 30)])
def test_a_new_face_takes_the_color_of_no_mask(color: tuple[int, int, int]) -> None:
    """The whole face lies in the open, in its picture one has something before mouth and nose."""
    plain = portrait(hair=SKIN)
    picture, points = plain.copy(), np.rint(landmarks()).astype(np.int32)
    cv2.fillConvexPoly(picture, np.concatenate([points[2:15], points[28:29]]), color)
    after, _ = pasted(plain, picture)
    x, y = np.rint(landmarks()[[33, 51]].mean(axis=0)).astype(int)
    seen = after[y - 3 : y + 3, x - 3 : x + 3].reshape(-1, 3).mean(axis=0)
    assert np.abs(seen - SKIN).max() < 25
    assert np.abs(seen - color).max() > 40


def test_grain_and_sharpness_are_those_of_the_picture() -> None:
    random = np.random.default_rng(1)
    sharp = cv2.GaussianBlur(random.uniform(0, 255, (160, 160)).astype(np.float32), (0, 0), 2.0)
    sharp = np.repeat((128 + 6 * (sharp - sharp.mean()))[..., None], 3, -1)
    skin = np.zeros((160, 160), np.float32)
    skin[100:140, 40:120] = 1
    sharp[92:148, 32:128] = 128
    features = 1 - skin
    old = cv2.GaussianBlur(sharp, (0, 0), 2.0)
    old += random.normal(0, 3, old.shape[:2])[..., None].astype(np.float32)
    out = match_texture(sharp, old, features, skin)
    calm = np.s_[104:136, 44:116, 0]
    assert 2.0 < out[calm].std() < 4.5
    detail = [np.abs(cv2.Laplacian(p[:80, :, 0], cv2.CV_32F)).mean() for p in (sharp, old, out)]
    assert abs(detail[2] - detail[1]) < 0.3 * abs(detail[0] - detail[1])
    assert np.array_equal(out, match_texture(sharp, old, features, skin))


def test_levels_that_destroy_cover_the_whole_face() -> None:
    face = placed()
    everywhere = replace(face, landmarks=None)
    for level in ("blur", "pixelate", "mask", "fgsm"):
        part, whole = (replaced_region(one, level, (SIDE, SIDE)) for one in (face, everywhere))
        assert part.window == whole.window
        assert np.array_equal(part.alpha, whole.alpha)
    for level in ("swap+1", "adversarial", "reconstruction"):
        part, whole = (
            replaced_region(face, level, (SIDE, SIDE)),
            whole_region(face, level, (SIDE, SIDE)),
        )
        assert (part.alpha >= 1).sum() < 0.9 * (whole.alpha >= 1).sum()


def test_a_face_at_the_edge_of_its_picture_is_replaced_as_far_as_it_is_seen() -> None:
    points = landmarks() - [0.5 * SIDE, 0.3 * SIDE]
    square, picture = Square(five_points(points)), portrait()
    region = face_region(points, square, picture.shape)
    alpha = paste_face(picture, portrait(), square, region).alpha
    assert region.window[:2] == (0, 0)
    assert alpha.shape == region.alpha.shape


def test_a_world_says_what_is_replaced_and_a_person_may_say_otherwise(world: World) -> None:
    assert world.region == "head"
    blur = RunSettings(method="mask", rendered=True)
    assert build_pipeline(blur, toy_world(), None).components.region == "head"
    photo = replace(toy_world(), region="face")
    assert build_pipeline(blur, photo, None).components.placing.region == "face"
    asked = replace(blur, region="head")
    assert build_pipeline(asked, photo, None).components.region == "head"
    with pytest.raises(DeidError, match="ears"):
        build_pipeline(replace(blur, region="ears"), photo, None)


def test_wrinkles_are_no_grain() -> None:
    """They are coarser: a smooth face does not get them as noise."""
    random = np.random.default_rng(2)
    wrinkles = cv2.GaussianBlur(random.normal(0, 1, (160, 160)).astype(np.float32), (0, 0), 3.0)
    old = np.repeat((128 + 6 * wrinkles / wrinkles.std())[..., None], 3, -1).astype(np.float32)
    skin = np.zeros((160, 160), np.float32)
    skin[90:150, 20:140] = 1
    out = match_texture(np.full_like(old, 128), old, 1 - skin, skin)
    assert out[94:146, 24:136, 0].std() < 0.5


def test_hair_beside_a_jaw_that_was_seen_too_wide_stays() -> None:
    points, before = landmarks(), portrait()
    middle = points[27:36].mean(axis=0)
    y, x = (np.mgrid[:SIDE, :SIDE] + 0.5) / SIDE - 0.5
    beside = (y > 0) & (np.hypot(x / 0.27, y / 0.4) > 1)
    before[beside] = (230, 30, 30)
    points[:17] = middle + 1.2 * (points[:17] - middle)
    square = placed().square
    region = face_region(points, square, before.shape)
    after = before.copy()
    paste_face(after, np.full((64, 64, 3), 150, np.uint8), square, region)
    hull = np.zeros((SIDE, SIDE), bool)
    x0, y0, x1, y1 = region.window
    hull[y0:y1, x0:x1] = region.alpha >= 1
    far = (np.hypot(x / 0.27, y / 0.4) > 1.12) & hull & (y > 0.25) & (np.abs(x) > 0.17)
    assert far.sum() > 100
    assert np.abs(after[far].astype(int) - before[far]).mean() < 12


def test_hair_over_the_outer_ends_of_the_brows_is_not_the_faces_own() -> None:
    """It lies so near that it was taken for a part of them."""
    made, points = portrait(), landmarks()
    up = points[30, 1] - points[17:27, 1].mean()
    for end in (17, 26):
        x, y = points[end]
        corner = np.rint([x, y - 0.13 * up]).astype(int)
        cv2.circle(made, corner.tolist(), round(0.09 * up), HAIR, -1)
    left = np.abs(skin_only(made, points).astype(int) - HAIR).sum(2) < 60
    ends = np.zeros_like(left)
    for end in (17, 26):
        x, y = np.rint(points[end]).astype(int)
        reach = round(0.25 * up)
        ends[y - reach : y - round(0.09 * up), x - reach : x + reach] = True
    assert (left & ends).sum() == 0


def test_strands_down_to_the_brows_do_not_go_along() -> None:
    """Not even their tips, which would hang above the brows of somebody without a fringe."""
    made, points = portrait(), landmarks()
    up = points[30, 1] - points[17:27, 1].mean()
    brows = np.rint(points[17:27]).astype(np.int32)
    for brow in (brows[:5], brows[5:]):
        cv2.polylines(made, [brow], False, (110, 80, 65), 4)
    tips = np.zeros((SIDE, SIDE), bool)
    for x, y in (brows[2], brows[7]):
        made[round(0.1 * SIDE) : y - 2, x - 2 : x + 2] = (130, 100, 82)  # light brown
        tips[y - round(0.12 * up) : y - round(0.07 * up), x - 1 : x + 1] = True
    out = skin_only(made, points).astype(int)
    assert np.abs(out[tips] - SKIN).mean() < 20
    for x, y in (brows[2], brows[7]):
        assert np.abs(out[y, x] - (110, 80, 65)).mean() < 20, "a brow went as well"


def test_a_brow_that_joins_the_hair_at_a_temple_does_not_stay() -> None:
    """Nor its outer end, however dark it is."""
    before, points = portrait(), landmarks()
    ends = np.zeros((SIDE, SIDE), np.uint8)
    for brow, temple in ((points[17:22], 0.12), (points[26:21:-1], 0.88)):
        line = np.concatenate([[[temple * SIDE, brow[0, 1] - 0.02 * SIDE]], brow])
        cv2.polylines(before, [np.rint(line).astype(np.int32)], False, HAIR, 7)
        cv2.polylines(ends, [np.rint(brow[:2]).astype(np.int32)], False, 1, 3)
    _, region = pasted(portrait((190, 140, 120)), before)
    x0, y0, x1, y1 = region.window
    assert region.alpha[ends[y0:y1, x0:x1] > 0].mean() > 0.9


def striped(top: float, bottom: float, columns: np.ndarray) -> tuple[Pixels, np.ndarray]:
    """The portrait with strands of hair over its forehead, between two shares of its height; and
    where they are, `[S,S]`."""
    picture, where = portrait(), np.zeros((SIDE, SIDE), bool)
    for x in (SIDE * columns).astype(int):
        where[round(top * SIDE) : round(bottom * SIDE), x : x + 4] = True
    picture[where] = HAIR
    return cv2.GaussianBlur(picture, (0, 0), 0.7), where


COLUMNS = np.arange(0.4, 0.6, 0.04)


def rows(first: float, last: float) -> np.ndarray:
    """Where a picture's rows lie between two shares of its height."""
    y = np.arange(SIDE)[:, None] / SIDE
    return np.broadcast_to((first <= y) & (y < last), (SIDE, SIDE))


def test_hair_over_a_forehead_stays_and_ends_above_the_brows() -> None:
    before, hair = striped(0.05, 0.5, COLUMNS)
    after, region = pasted(portrait((190, 140, 120)), before)
    change = np.abs(after.astype(int) - before).mean(axis=2)
    assert change[hair & rows(0.24, 0.32)].mean() < 20, "strands were covered"
    new, _ = pasted(portrait((190, 140, 120)), portrait())
    covered = np.abs(after.astype(int) - new).mean(axis=2)
    assert covered[hair & rows(0.38, 0.5)].mean() < 12, "strands stayed over brows and nose"
    x0, y0, x1, y1 = region.window
    between = cv2.dilate(hair.astype(np.uint8), np.ones((5, 5), np.uint8)) == 0
    middle = np.broadcast_to(np.abs(np.arange(SIDE) / SIDE - 0.5) < 0.1, (SIDE, SIDE))
    beside = (between & middle & rows(0.32, 0.5))[y0:y1, x0:x1]
    assert region.alpha[beside].min() > 0.9, "old skin stayed beside them"


def test_strands_end_one_by_one() -> None:
    """A whole fringe has no edge that is cut along a line: its lighter hair ends sooner."""
    picture, columns = portrait(), slice(round(0.3 * SIDE), round(0.7 * SIDE))
    light = np.random.default_rng(0).normal(0, 14, SIDE)[None, columns, None]
    fringe = np.s_[round(0.05 * SIDE) : round(0.5 * SIDE), columns]
    picture[fringe] = (np.array(HAIR) + 20 + light).clip(0, 255)
    _, region = pasted(portrait((190, 140, 120)), picture)
    x0, y0 = region.window[:2]
    ends = (region.alpha < 0.5)[: round(0.45 * SIDE) - y0, columns.start - x0 : columns.stop - x0]
    depths = ends.sum(axis=0)[10:-10]
    assert np.abs(np.diff(depths)).max() >= 2
    assert 1.0 < depths.std() < 0.05 * SIDE


@pytest.mark.parametrize("kind", ["bald", "a mark on it", "a shadow", "a shine"])
def test_a_forehead_without_hair_is_replaced(kind: str) -> None:
    before = portrait()
    if kind == "a mark on it":
        cv2.circle(before, (round(0.47 * SIDE), round(0.34 * SIDE)), 4, (40, 25, 20), -1)
    if kind == "a shadow":
        dark = cv2.GaussianBlur(rows(0.0, 0.34).astype(np.float32), (0, 0), 4)[..., None]
        before = np.rint(before * (1 - 0.3 * dark)).astype(np.uint8)
    if kind == "a shine":
        before = portrait((90, 60, 45))
        spot = np.zeros((SIDE, SIDE), np.float32)
        cv2.ellipse(spot, (SIDE // 2, round(0.3 * SIDE)), (20, 40), 0, 0, 360, 1.0, -1)
        spot = cv2.GaussianBlur(spot, (0, 0), 12)[..., None]
        before = np.rint(before + spot * (200.0 - before)).astype(np.uint8)
    square = placed().square
    region = face_region(landmarks(), square, before.shape)
    used = paste_face(before, np.full((64, 64, 3), 150, np.uint8), square, region)
    x0, y0, x1, y1 = region.window
    middle = (region.alpha >= 1) & rows(0.0, 0.5)[y0:y1, x0:x1]
    middle &= (np.abs(np.arange(x0, x1) / SIDE - 0.5) < 0.15)[None]
    assert used.alpha[middle].min() > 0.9


@pytest.mark.parametrize(("softness", "replaced"), [(14.0, True), (1.0, False)])
def test_shade_on_a_cheek_is_replaced_and_hair_stays(softness: float, replaced: bool) -> None:
    """Dark skin in the shade is as dark as hair is; but hair has an edge."""
    before = portrait((120, 75, 55))
    dark = np.zeros((SIDE, SIDE), np.float32)
    dark[round(0.3 * SIDE) :, round(0.68 * SIDE) :] = 1.0
    dark = cv2.GaussianBlur(dark, (0, 0), softness)[..., None]
    before = np.rint(before * (1 - 0.85 * dark)).astype(np.uint8)
    square = placed().square
    region = face_region(landmarks(), square, before.shape)
    assert region.core is not None
    used = paste_face(before, np.full((64, 64, 3), 150, np.uint8), square, region)
    x0, y0, x1, y1 = region.window
    cheek = (region.alpha >= 1) & (region.core == 0) & rows(0.55, 0.7)[y0:y1, x0:x1]
    cheek &= (np.arange(x0, x1) / SIDE > 0.72)[None]
    assert cheek.sum() > 100
    assert bool(used.alpha[cheek].min() > 0.9) is replaced


def cheeks_with(relief: float) -> np.ndarray:
    """`float32 [S,S,3]`: dark skin on which light and shade alternate."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    waves = np.sin(40 * x) * np.sin(40 * y)
    return (70 * np.exp(relief * waves))[..., None].repeat(3, -1).astype(np.float32)


@pytest.mark.parametrize(("new", "left"), [(0.05, 0.07), (0.15, 0.2), (0.3, 0.3)])
def test_light_and_shade_are_as_strong_as_in_the_picture(new: float, left: float) -> None:
    """Within what does not exaggerate the face that was drawn; what is stronger stays."""
    all_of_it = np.ones((SIDE, SIDE), np.float32)
    out = match_contrast(cheeks_with(new), cheeks_with(0.2), all_of_it, SIDE)
    spread = np.log(out).std() / np.log(cheeks_with(1.0)).std()
    assert spread == pytest.approx(left, rel=0.12)
    assert out.mean() == pytest.approx(70, rel=0.05)


def with_glasses(picture: Pixels) -> tuple[Pixels, np.ndarray]:
    """Dark ones, whose arms reach beyond the face; and where those lie between face and lens."""
    worn, color, thick = picture.copy(), (30, 30, 35), round(0.045 * SIDE)
    y = round(0.46 * SIDE)
    for x in (0.37, 0.63):
        cv2.circle(worn, (round(x * SIDE), y), round(0.075 * SIDE), color, 4)
    cv2.line(worn, (round(0.44 * SIDE), y), (round(0.56 * SIDE), y), color, 5)
    arms = np.zeros(picture.shape[:2], np.uint8)
    for ends in ((0.2, 0.29), (0.71, 0.8)):
        first, last = ((round(x * SIDE), y) for x in ends)
        cv2.line(arms, first, last, 1, thick)
    worn[arms > 0] = color
    inside = (arms > 0) & (np.abs(np.arange(SIDE) / SIDE - 0.5) < 0.245)
    return worn, inside


def test_arms_of_glasses_go_with_the_glasses() -> None:
    plain = portrait()
    plain[:, : SIDE // 2] = plain[:, : -SIDE // 2 - 1 : -1]  # no hair over either cheek
    before, arms = with_glasses(plain)
    bald, _ = pasted(plain, plain)
    after, _ = pasted(plain, before)
    change, left = (np.abs(after.astype(int) - one).mean(axis=2)[arms] for one in (before, bald))
    assert left.mean() < 12, "arms of no glasses stayed"
    worn, _ = pasted(with_glasses(portrait())[0], before)
    kept = np.abs(worn.astype(int) - before).mean(axis=2)[arms]
    assert kept.mean() < 0.6 * change.mean(), "glasses lost theirs"
