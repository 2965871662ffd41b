"""One picture, pixels in and pixels out: every face anonymised, judged, and masked if need be.

The picture is composed anew from its original each time a face falls to a lower rung, and judged
as it comes out of the encoder, until every face is either unrecognisable or an opaque mask.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deid.alignment import Points, apply_affine, crop_to_picture, five_points, invert_affine
from deid.anonymize import Anonymizer
from deid.images import Pixels, to_pixels, to_tensor
from deid.photo.align import crop_face, crop_side, native_side
from deid.photo.paste import (
    FEATHER,
    Region,
    fill,
    hard_region,
    hull_of_landmarks,
    hull_of_points,
    hull_with_box,
    is_filled,
    paste,
    plausible,
    soft_region,
)
from deid.privacy.ladder import DESTRUCTIVE, GENERATIVE, OPAQUE, ladder
from deid.privacy.verify import Verifier
from deid.worlds.world import FaceDetector, LandmarkNetwork

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tools:
    """Everything that works on a picture. `anonymizers` has one for each rung but the mask."""

    detector: FaceDetector
    landmarks: LandmarkNetwork
    landmark_side: int
    refine: bool  # whether the landmarks place a face better than the detector's points
    anonymizers: Mapping[str, Anonymizer]
    verifier: Verifier


@dataclass(frozen=True)
class FaceRecord:
    """What became of one face; goes into the manifest as it is."""

    box: tuple[int, int, int, int]
    score: float
    method: str  # the rung whose pixels were written
    verdict: str  # "verified", or "masked"
    similarities: Mapping[str, float]  # of what was written, for each judge
    failures: tuple[str, ...]  # why higher rungs were left


@dataclass
class _Face:
    """A face on its way down the ladder."""

    box: Points
    score: float
    points: Points
    hull: Points | None
    seed: int
    rungs: tuple[str, ...]
    similarities: Mapping[str, float] = field(default_factory=dict)
    failures: tuple[str, ...] = ()

    @property
    def rung(self) -> str:
        return self.rungs[0]

    def fall(self, reason: str, to_mask: bool = False) -> None:
        self.failures += (f"{self.rung}: {reason}",)
        self.rungs = (OPAQUE,) if to_mask else self.rungs[1:]
        self.similarities = {}

    def record(self) -> FaceRecord:
        x0, y0, x1, y1 = (round(float(value)) for value in self.box)
        verdict = "masked" if self.rung == OPAQUE else "verified"
        score = round(self.score, 4)
        rounded = {name: round(value, 4) for name, value in self.similarities.items()}
        return FaceRecord((x0, y0, x1, y1), score, self.rung, verdict, rounded, self.failures)


def deidentify_picture(
    picture: Pixels,
    tools: Tools,
    method: str,
    seed: Callable[[int], int],
    through: Callable[[Pixels], Pixels] = lambda pixels: pixels,
) -> tuple[Pixels, list[FaceRecord]]:
    """Anonymise every face of `uint8 [H,W,3]`; pixels away from faces keep their values.

    `seed(i)` is the seed of face i; `through` is what a picture goes through before it is looked
    at again, an encoder and its decoder. The last pixels given to it are those returned. An
    exception means that nothing may be written; a face that fails any step is masked instead.
    """
    found = tools.detector.detect([picture])[0]
    faces = [
        _prepare(picture, found.boxes[i], float(found.scores[i]), found.points[i], tools, seed(i))
        for i in range(len(found))
    ]
    for face in faces:
        if len(face.rungs) != 1:
            face.rungs = ladder(method)
    while True:
        composed = _compose(picture, faces, tools)
        final = through(composed)
        if final.shape != picture.shape:
            raise ValueError("the encoder changed the picture's size")
        failed = [face for face in faces if not _passes(picture, final, face, tools.verifier)]
        if not failed:
            return composed, [face.record() for face in faces]


def _prepare(
    picture: Pixels, box: Points, score: float, points: Points, tools: Tools, seed: int
) -> _Face:
    """Where a face is, exactly; one that cannot be placed can only be masked."""
    face = _Face(box, score, np.asarray(points, np.float64), None, seed, ("align", OPAQUE))
    try:
        _check_geometry(face.points, box)
        side = tools.landmark_side
        for _ in range(2 if tools.refine else 1):
            landmarks = _landmarks(picture, face.points, tools)
            to_picture = crop_to_picture(face.points, side)
            expected = apply_affine(invert_affine(to_picture), face.points)
            if not plausible(landmarks, expected, side):
                face.hull = hull_of_points(face.points)
                break
            face.hull = apply_affine(to_picture, hull_of_landmarks(landmarks))
            if tools.refine:
                face.points = apply_affine(to_picture, five_points(landmarks))
        _check_geometry(face.points, box)
    except Exception as error:
        log.debug("face at %s", box, exc_info=True)
        face.hull = None
        face.fall(_say(error), to_mask=True)
    return face


def _landmarks(picture: Pixels, points: Points, tools: Tools) -> NDArray[np.float64]:
    import torch

    crop = crop_face(picture, points, tools.landmark_side)
    with torch.inference_mode():
        return tools.landmarks(to_tensor(crop))[0].double().cpu().numpy()


def _check_geometry(points: Points, box: Points) -> None:
    if not (np.isfinite(points).all() and np.isfinite(box).all()):
        raise ValueError("its points are not finite")
    side, longer = native_side(points), float(max(box[2] - box[0], box[3] - box[1]))
    if not 0.5 * longer < side < 6.0 * longer:
        raise ValueError("its points do not fit its box")


def _compose(picture: Pixels, faces: list[_Face], tools: Tools) -> Pixels:
    """The picture with every face on its present rung; masks last, so that nothing covers them.

    Each crop is taken from the canvas as it is by then: a face that overlaps another one must not
    bring back its neighbour's original pixels.
    """
    canvas = picture.copy()
    for face in faces:
        if face.rung == OPAQUE:
            continue
        before = canvas.copy()
        try:
            _paste_face(canvas, face, tools)
        except Exception as error:
            log.debug("face at %s", face.box, exc_info=True)
            canvas = before
            face.fall(_say(error), to_mask=True)
    outlines = [hull_with_box(face.hull, face.box) for face in faces if face.rung == OPAQUE]
    masked = [hard_region(outline, picture.shape) for outline in outlines]
    for region in masked:
        fill(canvas, region)
    if not all(is_filled(canvas, region) for region in masked):
        raise RuntimeError("a mask does not cover its face")
    return canvas


def _paste_face(canvas: Pixels, face: _Face, tools: Tools) -> None:
    anonymizer = tools.anonymizers[face.rung]
    side = crop_side(face.points, anonymizer.resolution)
    crop = crop_face(canvas, face.points, side)
    output = anonymizer(to_tensor(crop), [face.seed])
    if output.shape != (1, 3, side, side) or not bool(output.isfinite().all()):
        raise FloatingPointError("its output is not a picture")
    region = _region(face, canvas.shape)
    match = face.rung in GENERATIVE
    paste(canvas, to_pixels(output)[0], face.points, region, match)


def _region(face: _Face, shape: tuple[int, ...]) -> Region:
    assert face.hull is not None
    covers = face.rung in DESTRUCTIVE
    outline = hull_with_box(face.hull, face.box) if covers else face.hull
    if face.rung == "pixelate":
        return hard_region(outline, shape)
    return soft_region(outline, shape, FEATHER * native_side(face.points))


def _passes(picture: Pixels, final: Pixels, face: _Face, verifier: Verifier) -> bool:
    """Judge one face of the finished picture; one that fails falls to its next rung."""
    if face.rung == OPAQUE:
        return True
    try:
        side = verifier.side
        inside = apply_affine(invert_affine(crop_to_picture(face.points, side)), face.points)
        before, after = (crop_face(p, face.points, side) for p in (picture, final))
        verdict = verifier.compare(before, after, inside)
    except Exception as error:
        log.debug("face at %s", face.box, exc_info=True)
        face.fall(f"not verified, {_say(error)}", to_mask=True)
        return False
    face.similarities = verdict.similarities
    if not verdict.safe:
        known = ", ".join(f"{name} {value:.2f}" for name, value in verdict.similarities.items())
        finite = bool(np.isfinite(list(verdict.similarities.values())).all())
        face.fall(f"still recognisable ({known})", to_mask=not finite)
    return verdict.safe


def _say(error: Any) -> str:
    return " ".join(f"{type(error).__name__} {error}".split())[:160]
