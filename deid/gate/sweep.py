"""The gate: what comes out of the encoder is looked at again, face by face and as a whole.

Own place: what is now where a face was is compared with that face and with all others of the
picture, whether or not a detector still sees a face there. Sweep: every face that a detector
finds in the finished picture is compared with every original of it, and one that nobody handled
gets its own fallback chain.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from deid.faces.alignment import Points
from deid.faces.faces import Faces
from deid.gate.face import Face, check_geometry, embed_face, say
from deid.gate.fallback import OPAQUE, SMALLEST_JUDGED
from deid.gate.judges import Embeddings, Verifier
from deid.imaging.align import crop_face
from deid.imaging.paste import coverage, hull_of_box, hull_of_points, looks_filled
from deid.pixels import Pixels

log = logging.getLogger(__name__)

UNCHANGED = 2.0
"""Mean change, in levels of 256, below which a face was not anonymized, whatever judges say."""
HANDLED = 0.65
"""Share of a face found anew that must lie in a handled region, else nobody handled it."""
BURIED = 0.9
"""Share under opaque masks from which nothing of a face is left to be compared."""


class Unsafe(Exception):
    """A picture that cannot be made safe: nothing of it may be written."""


@dataclass(frozen=True)
class Limits:
    """What one picture may cost. When `seconds` are over, its faces are masked; after twice as
    long there is no output. A step that hangs is not interrupted here."""

    seconds: float | None = None
    sweeps: int = 4  # after so many that found a face nobody had handled, there is no output
    smallest: int = SMALLEST_JUDGED  # pixels; smaller faces are destroyed, whatever the method
    clock: Callable[[], float] = time.monotonic


class Deadline:
    """The time that a picture has left."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._start = limits, limits.clock()

    @property
    def over(self) -> bool:
        """Whether only masks may be tried by now; raises `Unsafe` after twice the time."""
        allowed = self._limits.seconds
        if allowed is None:
            return False
        used = self._limits.clock() - self._start
        if used > 2 * allowed:
            raise Unsafe(f"out of time after {allowed:g} s")
        return used > allowed


def check_own(
    picture: Pixels, final: Pixels, faces: Sequence[Face], place: int, verifier: Verifier
) -> bool:
    """Compare a face of the finished picture with its original, and with the others' originals,
    at its own place; one that fails escalates."""
    face = faces[place]
    if face.opaque:
        if not looks_filled(final, face.region(final.shape)):
            raise Unsafe("a mask does not cover its face in the encoded picture")
        return True
    try:
        crop = crop_face(final, face.points, verifier.side)
        if not _changed(face.crop(picture, verifier), crop):
            face.escalate("it is unchanged")
            return False
        output = face.output(crop, verifier)
        own = verifier.judge(face.original(picture, verifier), output)
        face.similarities = own.similarities
        known = recognized(picture, output, faces, place, verifier)
    except Exception as error:
        log.debug("face at %s", face.box, exc_info=True)
        face.escalate(f"not verified, {say(error)}", to_mask=True)
        return False
    if known:
        face.escalate(known)
    return not known


def recognized(
    picture: Pixels, output: Embeddings, faces: Sequence[Face], place: int, verifier: Verifier
) -> str:
    """As whom judges know what is in the place of a face, in words; empty for nobody."""
    for number, other in enumerate(faces):
        if number != place and not _has_points(other):
            continue  # there is nothing to compare with: it lies under a mask
        original = other.original(picture, verifier)
        verdict = verifier.judge(original, output, elsewhere=number != place)
        if not verdict.safe:
            said = ", ".join(f"{name} {value:.2f}" for name, value in verdict.similarities.items())
            whom = "still recognizable" if number == place else f"recognized as face {number + 1}"
            return f"{whom} ({said})"
    return ""


def sweep(
    picture: Pixels, final: Pixels, found: Faces, faces: Sequence[Face], verifier: Verifier
) -> list[int]:
    """Which of the faces `found` in the finished picture nobody handled.

    One found in a handled face's place that is recognized as any original lets that face escalate.
    """
    unhandled = []
    levels = [face.levels for face in faces]
    regions = [face.region(final.shape) for face in faces]
    masks = [r for r, face in zip(regions, faces, strict=True) if face.opaque]
    for index in range(len(found)):
        outline = _outline(found.points[index], found.boxes[index])
        if masks and coverage(outline, masks, final.shape) >= BURIED:
            continue
        shares = [coverage(outline, [region], final.shape) for region in regions]
        place = int(np.argmax(shares)) if shares else 0
        if not shares or shares[place] < HANDLED:
            unhandled.append(index)
        elif faces[place].kept or faces[place].levels != levels[place]:
            continue  # it was to be kept; or it escalated just now, and comes again
        elif (
            not _stranger(picture, final, found.points[index], faces, place, verifier)
            and faces[place].opaque
        ):
            unhandled.append(index)  # the mask leaves too much of it
    return unhandled


def _stranger(
    picture: Pixels,
    final: Pixels,
    points: Points,
    faces: Sequence[Face],
    place: int,
    verifier: Verifier,
) -> bool:
    """Whether a face found anew in a handled place is nobody of the picture; else it escalates."""
    face = faces[place]
    try:
        output = embed_face(final, np.asarray(points, np.float64), verifier)
        known = recognized(picture, output, faces, place, verifier)
    except Exception as error:
        log.debug("face at %s", face.box, exc_info=True)
        if not face.opaque:
            face.escalate(f"not verified by the sweep, {say(error)}", to_mask=True)
        return False
    if known and not face.opaque:
        face.escalate(f"{known} by the sweep")
    return not known


def new_face(found: Faces, index: int, levels: tuple[str, ...], seed: int) -> Face:
    """A face of `found` at the top of its fallback_chain, not placed yet."""
    points = np.asarray(found.points[index], np.float64)
    return Face(found.boxes[index], float(found.scores[index]), points, None, seed, levels)


def mask_all(faces: Sequence[Face], reason: str) -> None:
    """Escalate every face to the mask."""
    for face in faces:
        if face.level != OPAQUE:
            face.escalate(reason, to_mask=True)


def _changed(before: Pixels, after: Pixels) -> bool:
    """Whether two aligned crops of one place differ in the face itself."""
    side = len(before)
    inner = np.s_[side * 3 // 10 : side * 8 // 10, side * 3 // 10 : side * 8 // 10]
    return float(cv2.absdiff(before[inner], after[inner]).mean()) >= UNCHANGED


def _outline(points: Points, box: Points) -> Points:
    return hull_of_points(points) if _plausible(points, box) else hull_of_box(box)


def _has_points(face: Face) -> bool:
    return face.hull is not None or _plausible(face.points, face.box)


def _plausible(points: Points, box: Points) -> bool:
    try:
        check_geometry(points, box)
    except ValueError:
        return False
    return True
