"""One picture, pixels in and bytes out: every face anonymized, judged, and masked if need be.

The picture is composed anew from its original each time a face escalates to its next level, and
judged as it comes out of the encoder, until every face is either unrecognizable or an opaque mask
and no detector finds another one.
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from deid.anonymize import Anonymizer
from deid.anonymize.base import finite
from deid.faces.faces import FaceDetector, Faces
from deid.gate.choose import Chooser
from deid.gate.domain import RenderedOnly
from deid.gate.face import KEPT, Face, FaceRecord, Placing, fitted, place, say
from deid.gate.fallback import GENERATIVE, OPAQUE, RESHAPED, base, fallback_chain, small_face_chain
from deid.gate.judges import Verifier
from deid.gate.sweep import Deadline, Limits, Unsafe, check_own, mask_all, new_face, sweep
from deid.imaging.align import crop_face, crop_side, native_side
from deid.imaging.paste import fill, is_filled, paste
from deid.pixels import Pixels, to_pixels, to_tensor
from deid.worlds.world import LandmarkNetwork

__all__ = ["Components", "FaceRecord", "Limits", "Unsafe", "deidentify_picture"]

log = logging.getLogger(__name__)

RoundTrip = Callable[[Pixels], tuple[bytes, Pixels]]
"""An encoder and its decoder: `uint8 [H,W,3]` → the encoded picture, and what is seen in it."""


@dataclass(frozen=True)
class Components:
    """Everything that works on a picture. `anonymizers` has one for each level but the mask."""

    detector: FaceDetector
    landmarks: LandmarkNetwork
    landmark_side: int
    refine: bool  # whether the landmarks place a face better than the detector's points
    anonymizers: Mapping[str, Anonymizer]
    verifier: Verifier
    sweeper: FaceDetector | None = None  # looks at what was anonymized; None: the detector
    chooser: Chooser | None = None  # which faces stay as they are; None: none
    rendered_only: RenderedOnly | None = None  # None: all pictures are in the networks' domain

    def check_domain(self, picture: Pixels) -> None:
        """`DeidError` for a picture in which these networks see nothing reliable."""
        if self.rendered_only is not None:
            self.rendered_only.check(picture)


def deidentify_picture(
    picture: Pixels,
    components: Components,
    method: str,
    seed: Callable[[int], int],
    round_trip: RoundTrip,
    limits: Limits | None = None,
) -> tuple[bytes, list[FaceRecord]]:
    """Anonymize every face of `uint8 [H,W,3]`; pixels away from faces keep their values.

    Returns the encoded bytes that were judged, and what became of each face. `seed(i)` is the seed
    of face i. An exception means that nothing may be written; a face that fails any step is masked
    instead.
    """
    components.check_domain(picture)
    limits = limits or Limits()
    deadline = Deadline(limits)
    entry = _Entry(picture, components, method, seed, limits)
    faces = entry.admit(components.detector.detect([picture])[0], "detector", [])
    finds = 0
    while True:
        if deadline.over:
            mask_all(faces, "out of time")
        composed = _compose(picture, faces, components, deadline)
        encoded, final = round_trip(composed)
        if final.shape != picture.shape:
            raise Unsafe("the encoder changed the picture's size")
        if not _all_pass(picture, final, faces, components.verifier, deadline):
            continue
        found = (components.sweeper or components.detector).detect([final])[0]
        levels = [face.levels for face in faces]
        unhandled = sweep(picture, final, found, faces, components.verifier)
        if not unhandled and levels == [face.levels for face in faces]:
            return encoded, [face.record() for face in faces]
        finds += bool(unhandled)
        if finds >= limits.sweeps:
            raise Unsafe("faces nobody had handled were found again and again")
        # What appears late is no new person but trouble: it is masked at once.
        faces += entry.admit(found, "sweep", faces, unhandled, opaque=finds > 1)


def find_faces(picture: Pixels, components: Components, method: str) -> list[Face]:
    """The faces of `uint8 [H,W,3]`, placed, each at the level at which `method` begins."""
    entry = _Entry(picture, components, method, lambda _: 0, Limits())
    return entry.admit(components.detector.detect([picture])[0], "detector", [])


@dataclass(frozen=True)
class _Entry:
    """Where a face begins."""

    picture: Pixels
    components: Components
    method: str
    seed: Callable[[int], int]
    limits: Limits

    def admit(
        self,
        found: Faces,
        by: str,
        before: list[Face],
        which: list[int] | None = None,
        opaque: bool = False,
    ) -> list[Face]:
        """Faces placed and at their first levels, numbered after those `before`."""
        components = self.components
        placing = Placing(components.landmarks, components.landmark_side, components.refine)
        admitted = []
        for number, index in enumerate(range(len(found)) if which is None else which, len(before)):
            face = new_face(found, index, self._levels(found, index, opaque), self.seed(number))
            face.found = by
            admitted.append(face)
        if not opaque:
            place(self.picture, admitted, placing)
        if components.chooser is not None:
            for face in admitted:
                if components.chooser.keeps(self.picture, face):
                    face.levels = (KEPT, OPAQUE)
        return admitted

    def _levels(self, found: Faces, index: int, opaque: bool) -> tuple[str, ...]:
        if opaque:
            return (OPAQUE,)
        x0, y0, x1, y1 = found.boxes[index]
        small = max(x1 - x0, y1 - y0) < self.limits.smallest
        levels = small_face_chain(self.method) if small else fallback_chain(self.method)
        # A later level whose networks are not here is passed over; the first one is not.
        there = {*self.components.anonymizers, levels[0], OPAQUE}
        return tuple(level for level in levels if level in there)


def _all_pass(
    picture: Pixels, final: Pixels, faces: list[Face], verifier: Verifier, deadline: Deadline
) -> bool:
    passed = True
    for index, face in enumerate(faces):
        if face.kept:
            continue
        if deadline.over and not face.opaque:
            face.escalate("out of time", to_mask=True)
            passed = False
        else:
            passed &= check_own(picture, final, faces, index, verifier)
    return passed


def _compose(
    picture: Pixels, faces: list[Face], components: Components, deadline: Deadline
) -> Pixels:
    """The picture with every face on its present level; masks last, so that nothing covers them.

    Each crop is taken from the canvas as it is by then: a face that overlaps another one must not
    bring back its neighbor's original pixels.
    """
    canvas = picture.copy()
    for face in faces:
        if face.opaque or face.kept:
            continue
        try:
            if deadline.over:
                raise TimeoutError("out of time")
            _paste_face(canvas, face, components)
        except Unsafe:
            raise
        except Exception as error:
            log.debug("face at %s", face.box, exc_info=True)
            face.escalate(say(error), to_mask=True)
    masked = [face.region(picture.shape) for face in faces if face.opaque]
    for region in masked:
        fill(canvas, region)
    if not all(is_filled(canvas, region) for region in masked):
        raise Unsafe("a mask does not cover its face")
    return canvas


def _paste_face(canvas: Pixels, face: Face, components: Components) -> None:
    anonymizer = components.anonymizers[face.level]
    side = _side(face, anonymizer)
    kind = base(face.level)

    def make(crop: Pixels) -> Pixels:
        output = anonymizer(to_tensor(crop), [face.level_seed])
        if output.shape != (1, 3, side, side) or not finite(output):
            raise FloatingPointError("its output is not a picture")
        made = np.asarray(to_pixels(output)[0])
        placing = Placing(components.landmarks, components.landmark_side, components.refine)
        return fitted(made, face, placing) if kind in RESHAPED else made

    new = face.made(crop_face(canvas, face.points, side), make)
    region = face.region(canvas.shape)
    x0, y0, x1, y1 = region.window
    before = canvas[y0:y1, x0:x1].copy()
    try:
        paste(canvas, new, face.points, region, kind in GENERATIVE)
    except BaseException:
        canvas[y0:y1, x0:x1] = before
        raise


def _side(face: Face, anonymizer: Anonymizer) -> int:
    """Side to crop at: where less is enough, the face's own by a whole number."""
    side, enough = crop_side(face.points, anonymizer.resolution), anonymizer.enough
    native = native_side(face.points)
    if enough is None or min(side, native) <= enough:
        return side
    return math.ceil(native / (native // enough))
