"""A face that is put back must not show where: colors, light, and every pixel away from it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from benchmarks.seam import edge_step
from deid.faces.detection import build_detector
from deid.faces.faces import FaceDetector
from deid.gate.anonymize import fitted
from deid.gate.geometry import detected, replaced_region
from deid.gate.place import Placing, place
from deid.imaging.align import crop_face, crop_side
from deid.imaging.blend import Place, blend_in, match_light
from deid.imaging.codec import decode
from deid.imaging.paste import Region, paste
from deid.pixels import Pixels
from deid.worlds.world import World
from tests.conftest import ROOT


@dataclass(frozen=True)
class Pasted:
    """A picture before and after one of its faces was pasted back, and where."""

    before: Pixels
    after: Pixels
    region: Region
    side: float

    def window(self, pixels: Pixels) -> Pixels:
        x0, y0, x1, y1 = self.region.window
        return pixels[y0:y1, x0:x1]

    def band(self, share: float = 0.03) -> np.ndarray:
        """Pixels within `share` of the square's side from the edge of the face's mask."""
        whole = (self.region.alpha >= 1).astype(np.uint8)
        reach = max(2.0, share * self.side)
        out = cv2.distanceTransform(1 - whole, cv2.DIST_L2, 5)
        into = cv2.distanceTransform(whole, cv2.DIST_L2, 5)
        return (out <= reach) & (into <= reach)

    def color_change(self) -> float:
        """Mean ΔE2000 from the original across the mask's edge."""
        old, new = (rgb2lab(self.window(p)) for p in (self.before, self.after))
        return float(deltaE_ciede2000(old, new)[self.band()].mean())

    def fringe(self) -> float:
        """Share of the pixels about the mask's edge that are clearly (6 in Lab) lighter, darker or
        of another color than anything that was near them before."""
        old, new = (rgb2lab(self.window(p)).astype(np.float32) for p in (self.before, self.after))
        reach = 2 * round(max(2.0, 0.06 * self.side)) + 1
        near = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
        above, below = new - cv2.dilate(old, near), cv2.erode(old, near) - new
        beyond = np.linalg.norm(above.clip(0) + below.clip(0), axis=-1)
        return float((beyond[self.band(0.06) & (self.region.alpha > 0)] > 6.0).mean())

    def step(self, pixels: Pixels) -> float:
        """Mean ΔE2000 between just inside and just outside the mask's edge."""
        return edge_step(pixels, self.region, self.side)


Make = Callable[[Pixels], Pixels]


def pasted_faces(
    picture: Pixels,
    detector: FaceDetector,
    world: World,
    make: Make,
    match: bool,
    side: int | None,
    fit: bool = False,
) -> list[Pasted]:
    """Each face of a picture, alone, cropped at `side`, made, fitted if asked, and pasted back."""
    placing = Placing(world.landmarks, world.resolution, detector.name == "mini")
    found = detector.detect([picture])[0]
    results = []
    for index in range(len(found)):
        face = place(picture, [detected(found, index)], [True], placing)[0].geometry
        assert face.hull is not None
        after, region = picture.copy(), replaced_region(face, "swap", picture.shape)
        crop = crop_face(picture, face.square, crop_side(face.square, side))
        made = make(crop)
        made = fitted(made, face, placing) if fit else made
        paste(after, made, face.square, region, match)
        results.append(Pasted(picture, after, region, face.square.side))
    return results


def mini_scenes() -> list[Pixels]:
    files = sorted((ROOT / "data/samples").glob("*.png"))
    return [decode(file.read_bytes(), file.name).pixels for file in files]


def photograph(assets: Path, sides: Sequence[int], people: Sequence[int]) -> Pixels:
    """Portraits of people, by number, side by side in the given sizes on a soft background."""
    height, width = max(sides) + 40, sum(sides) + 20 * (len(sides) + 1)
    y, x = np.mgrid[0:height, 0:width]
    canvas = np.stack([90 + 60 * x / width, 110 + 40 * y / height, 120 + 0 * x], -1)
    canvas, left = canvas.astype(np.uint8), 20
    for number, side in zip(people, sides, strict=True):
        with Image.open(assets / f"photoreal/{number:03d}.jpg") as image:
            face = image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
        canvas[20 : 20 + side, left : left + side] = np.asarray(face)
        left += side + 20
    return canvas


def unchanged(crop: Pixels) -> Pixels:
    return crop


@pytest.mark.parametrize("match", [False, True], ids=["as it is", "matched"])
def test_an_unchanged_face_of_the_mini_world_shows_no_seam(world: World, match: bool) -> None:
    pasted = [
        face
        for scene in mini_scenes()
        for face in pasted_faces(scene, world.detector, world, unchanged, match, None)
    ]
    assert len(pasted) >= 15
    changes = [face.color_change() for face in pasted]
    assert np.mean(changes) <= 2.0
    assert max(changes) <= 4.0
    steps = [face.step(face.after) - face.step(face.before) for face in pasted]
    assert np.mean(steps) <= 0.5


@pytest.mark.parametrize("match", [False, True], ids=["as it is", "matched"])
def test_an_unchanged_face_of_a_photograph_shows_no_seam(
    assets: Path, world: World, match: bool
) -> None:
    detector = build_detector([f"scrfd={assets / 'weights/scrfd_2.5g_bnkps.onnx'}"], world)
    scene = photograph(assets, [300, 160, 80, 48], range(20, 24))
    pasted = pasted_faces(scene, detector, world, unchanged, match, None)
    assert len(pasted) == 4
    changes = [face.color_change() for face in pasted]
    assert np.mean(changes) <= 2.0
    assert max(changes) <= 3.0


def another(donors: Pixels) -> Make:
    """Each face becomes the next of some other people's."""
    turn = iter(range(10_000))
    return lambda crop: donors[next(turn) % len(donors)]


def test_another_persons_face_takes_the_light_of_its_place(world: World) -> None:
    """Pasted as it is, its edge is a step of color; matched, hardly more than the original's."""
    donors = world.test_faces(12, 1, 3).pixels
    steps: dict[bool, list[float]] = {}
    for match in (False, True):
        pasted = [
            face
            for scene in mini_scenes()[:3]
            for face in pasted_faces(scene, world.detector, world, another(donors), match, 64)
        ]
        steps[match] = [face.step(face.after) for face in pasted]
        original = np.mean([face.step(face.before) for face in pasted])
    assert np.mean(steps[False]) > original + 5.0, "there was no seam to close"
    assert np.mean(steps[True]) < original + 1.0


def narrow(donors: Pixels, share: float) -> Pixels:
    """The same people with heads so much narrower, before more of their own background."""
    side = donors.shape[1]
    squeeze = np.array([[share, 0.0, (1 - share) * side / 2], [0.0, 1.0, 0.0]])
    return np.stack(
        [cv2.warpAffine(d, squeeze, (side, side), borderMode=cv2.BORDER_REPLICATE) for d in donors]
    )


def test_a_narrower_head_leaves_no_fringe(world: World) -> None:
    """What a generator drew behind a narrow head does not show inside the mask of a broad one."""
    donors = narrow(world.test_faces(24, 1, 3).pixels, 0.8)
    fringes = {}
    for fit in (False, True):
        pasted = [
            face
            for scene in mini_scenes()[1:]
            for face in pasted_faces(scene, world.detector, world, another(donors), True, 64, fit)
        ]
        assert len(pasted) >= 12
        fringes[fit] = np.mean([face.fringe() for face in pasted])
    assert fringes[False] > 0.05, "there was no fringe to avoid"
    assert fringes[True] < 0.6 * fringes[False]


@pytest.mark.parametrize("method", ["swap", "blur", "pixelate", "mask"])
def test_pixels_away_from_the_face_are_the_same_bits(world: World, method: str) -> None:
    """Whatever is pasted, and however its colors are matched."""
    scene = mini_scenes()[0]
    found = world.detector.detect([scene])[0]
    for index in range(len(found)):
        placing = Placing(world.landmarks, world.resolution, True)
        face = place(scene, [detected(found, index)], [True], placing)[0].geometry
        region = replaced_region(face, method, scene.shape)
        away = np.ones(scene.shape[:2], bool)
        x0, y0, x1, y1 = region.window
        away[y0:y1, x0:x1] = region.alpha == 0
        after = scene.copy()
        paste(after, np.full((64, 64, 3), 200, np.uint8), face.square, region, method == "swap")
        assert np.array_equal(after[away], scene[away])
        assert (after[~away] != scene[~away]).any(axis=1).mean() > 0.5


def a_place(seed: int, side: int = 80) -> tuple[Place, np.ndarray]:
    """A soft round face on a smooth background, and the same as `float32` pixels."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    colors = random.uniform(60, 190, (3, 3)).astype(np.float32)
    old = colors[0] + x[..., None] * (colors[1] - colors[0]) + y[..., None] * 20
    far = np.hypot(x - 0.5, y - 0.5)
    alpha = np.clip((0.42 - far) / 0.04, 0, 1).astype(np.float32)
    skin = (far < 0.22).astype(np.float32)
    jaw = (y > 0.5).astype(np.float32)
    return Place(old.astype(np.float32), alpha, skin, jaw, float(side)), old


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_what_fits_already_is_left_alone(seed: int) -> None:
    where, old = a_place(seed)
    assert np.abs(blend_in(old, where) - old).max() < 1.0


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), gain=st.floats(0.6, 1.6), slope=st.floats(-0.3, 0.3))
def test_another_light_is_taken_back(seed: int, gain: float, slope: float) -> None:
    """A face under a brighter, darker or slanting light comes back to the light of its place."""
    where, old = a_place(seed)
    x = np.linspace(-1, 1, old.shape[1], dtype=np.float32)[None, :, None]
    lit = (old * gain * np.exp(slope * x)).astype(np.float32)
    skin = where.skin > 0
    before = np.abs(lit - old)[skin].mean()
    after = np.abs(match_light(lit, where) - old)[skin].mean()
    assert after <= max(2.5, 0.35 * before)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), gain=st.floats(0.3, 3.0))
def test_light_keeps_white_white_and_what_is_brighter_brighter(seed: int, gain: float) -> None:
    """However much lighter or darker a face has to become, its teeth do not become glaring."""
    where, old = a_place(seed)
    ramp = np.repeat(np.linspace(0, 255, old.shape[1], dtype=np.float32)[None], len(old), axis=0)
    made = np.where(where.skin[..., None] > 0, old / gain, ramp[..., None]).astype(np.float32)
    out = match_light(made.clip(0, 255), where)
    row = out[0]  # above the face: the ramp alone, under a field that is level at either end
    assert (np.diff(row[:20], axis=0) > -0.5).all()
    assert (np.diff(row[-20:], axis=0) > -0.5).all()
    assert out.min() >= -8.0
    assert out.max() <= (255.0 + 8.0) / 0.75


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), value=st.integers(0, 255))
def test_blending_gives_finite_colors_and_no_more_than_was_there(seed: int, value: int) -> None:
    where, old = a_place(seed)
    flat = np.full_like(old, value)
    out = blend_in(flat, where)
    assert np.isfinite(out).all()
    inside = where.alpha >= 1
    lowest, highest = min(old.min(), value * 0.5), max(old.max(), (value + 8) * 2.0)
    assert out[inside].min() >= lowest - 1.0
    assert out[inside].max() <= highest + 1.0
