"""One picture, pixels in and pixels out: every face anonymized, judged, and masked if need be.

The picture is composed anew from its original each time a face falls to a lower rung, and judged
as it comes out of the encoder, until every face is either unrecognizable or an opaque mask and no
detector finds another one.
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
from deid.gate.fallback import GENERATIVE, OPAQUE, RESHAPED, base, ladder, small_ladder
from deid.gate.judges import Verifier
from deid.gate.sweep import Deadline, Limits, Unsafe, check_own, mask_all, newcomer, sweep
from deid.imaging.align import crop_face, crop_side, native_side
from deid.imaging.paste import fill, is_filled, paste
from deid.pixels import Pixels, to_pixels, to_tensor
from deid.worlds.world import LandmarkNetwork

__all__ = ["FaceRecord", "Limits", "Tools", "Unsafe", "deidentify_picture"]

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
    sweeper: FaceDetector | None = None  # looks at what was anonymized; None: the detector
    chooser: Chooser | None = None  # which faces stay as they are; None: none
    rendered_only: RenderedOnly | None = None  # None: all pictures are in the networks' domain

    def check_domain(self, picture: Pixels) -> None:
        """`DeidError` for a picture in which these networks see nothing reliable."""
        if self.rendered_only is not None:
            self.rendered_only.check(picture)


def deidentify_picture(
    picture: Pixels,
    tools: Tools,
    method: str,
    seed: Callable[[int], int],
    through: Callable[[Pixels], Pixels] = lambda pixels: pixels,
    limits: Limits | None = None,
) -> tuple[Pixels, list[FaceRecord]]:
    """Anonymize every face of `uint8 [H,W,3]`; pixels away from faces keep their values.

    `seed(i)` is the seed of face i; `through` is what a picture goes through before it is looked
    at again, an encoder and its decoder. The last pixels given to it are those returned. An
    exception means that nothing may be written; a face that fails any step is masked instead.
    """
    tools.check_domain(picture)
    limits = limits or Limits()
    deadline = Deadline(limits)
    entry = _Entry(picture, tools, method, seed, limits)
    faces = entry.admit(tools.detector.detect([picture])[0], "detector", [])
    finds = 0
    while True:
        if deadline.over:
            mask_all(faces, "out of time")
        composed = _compose(picture, faces, tools, deadline)
        final = through(composed)
        if final.shape != picture.shape:
            raise Unsafe("the encoder changed the picture's size")
        if not _all_pass(picture, final, faces, tools.verifier, deadline):
            continue
        found = (tools.sweeper or tools.detector).detect([final])[0]
        rungs = [face.rungs for face in faces]
        loose = sweep(picture, final, found, faces, tools.verifier)
        if not loose and rungs == [face.rungs for face in faces]:
            return composed, [face.record() for face in faces]
        finds += bool(loose)
        if finds >= limits.sweeps:
            raise Unsafe("faces nobody had handled were found again and again")
        # What appears late is no new person but trouble: it is masked at once.
        faces += entry.admit(found, "sweep", faces, loose, opaque=finds > 1)


def find_faces(picture: Pixels, tools: Tools, method: str) -> list[Face]:
    """The faces of `uint8 [H,W,3]`, placed, each at the rung at which `method` begins."""
    entry = _Entry(picture, tools, method, lambda _: 0, Limits())
    return entry.admit(tools.detector.detect([picture])[0], "detector", [])


@dataclass(frozen=True)
class _Entry:
    """Where a face begins."""

    picture: Pixels
    tools: Tools
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
        """Faces placed and at the top of their ladders, numbered after those `before`."""
        tools = self.tools
        placing = Placing(tools.landmarks, tools.landmark_side, tools.refine)
        admitted = []
        for number, index in enumerate(range(len(found)) if which is None else which, len(before)):
            face = newcomer(found, index, self._rungs(found, index, opaque), self.seed(number))
            face.found = by
            admitted.append(face)
        if not opaque:
            place(self.picture, admitted, placing)
        if tools.chooser is not None:
            for face in admitted:
                if tools.chooser.spares(self.picture, face):
                    face.rungs = (KEPT, OPAQUE)
        return admitted

    def _rungs(self, found: Faces, index: int, opaque: bool) -> tuple[str, ...]:
        if opaque:
            return (OPAQUE,)
        x0, y0, x1, y1 = found.boxes[index]
        small = max(x1 - x0, y1 - y0) < self.limits.smallest
        rungs = small_ladder(self.method) if small else ladder(self.method)
        # A later rung whose networks are not here is passed over; the first one is not.
        there = {*self.tools.anonymizers, rungs[0], OPAQUE}
        return tuple(rung for rung in rungs if rung in there)


def _all_pass(
    picture: Pixels, final: Pixels, faces: list[Face], verifier: Verifier, deadline: Deadline
) -> bool:
    passed = True
    for index, face in enumerate(faces):
        if face.spared:
            continue
        if deadline.over and not face.opaque:
            face.fall("out of time", to_mask=True)
            passed = False
        else:
            passed &= check_own(picture, final, faces, index, verifier)
    return passed


def _compose(picture: Pixels, faces: list[Face], tools: Tools, deadline: Deadline) -> Pixels:
    """The picture with every face on its present rung; masks last, so that nothing covers them.

    Each crop is taken from the canvas as it is by then: a face that overlaps another one must not
    bring back its neighbor's original pixels.
    """
    canvas = picture.copy()
    for face in faces:
        if face.opaque or face.spared:
            continue
        try:
            if deadline.over:
                raise TimeoutError("out of time")
            _paste_face(canvas, face, tools)
        except Unsafe:
            raise
        except Exception as error:
            log.debug("face at %s", face.box, exc_info=True)
            face.fall(say(error), to_mask=True)
    masked = [face.region(picture.shape) for face in faces if face.opaque]
    for region in masked:
        fill(canvas, region)
    if not all(is_filled(canvas, region) for region in masked):
        raise Unsafe("a mask does not cover its face")
    return canvas


def _paste_face(canvas: Pixels, face: Face, tools: Tools) -> None:
    anonymizer = tools.anonymizers[face.rung]
    side = _side(face, anonymizer)
    kind = base(face.rung)

    def make(crop: Pixels) -> Pixels:
        output = anonymizer(to_tensor(crop), [face.rung_seed])
        if output.shape != (1, 3, side, side) or not finite(output):
            raise FloatingPointError("its output is not a picture")
        made = np.asarray(to_pixels(output)[0])
        placing = Placing(tools.landmarks, tools.landmark_side, tools.refine)
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
