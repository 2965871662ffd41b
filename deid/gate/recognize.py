"""Recognition: whether judges still know a face in what comes out of the encoder.

What is now where a face was is compared with that face and with all others of the picture, whether
or not a detector still sees a face there.
"""

import logging
from collections.abc import Sequence

import cv2
import numpy as np

from deid.gate.face import Face, error_line
from deid.gate.judges import Embeddings, Verifier
from deid.gate.limits import Deadline, Unsafe
from deid.imaging.align import crop_face
from deid.imaging.paste import looks_filled
from deid.pixels import Pixels

log = logging.getLogger(__name__)

UNCHANGED = 2.0
"""Mean change, in levels of 256, below which a face was not anonymized, whatever judges say."""


def all_pass(
    picture: Pixels,
    final: Pixels,
    faces: Sequence[Face],
    verifier: Verifier,
    deadline: Deadline,
) -> bool:
    """Whether every face of the finished picture passes at its own place; one that fails
    escalates."""
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
        crop = crop_face(final, face.geometry.square, verifier.side)
        if not _changed(face.crop(picture, verifier), crop):
            face.escalate("it is unchanged")
            return False
        output = face.output(crop, verifier)
        own = verifier.judge(face.original(picture, verifier), output)
        face.similarities = own.similarities
        known = recognized(picture, output, faces, place, verifier)
    except Exception as error:
        log.debug("face at %s", face.geometry.box, exc_info=True)
        face.escalate(f"not verified, {error_line(error)}", to_mask=True)
        return False
    if known:
        face.escalate(known)
    return not known


def recognized(
    picture: Pixels, output: Embeddings, faces: Sequence[Face], place: int, verifier: Verifier
) -> str:
    """As whom judges know what is in the place of a face, in words; empty for nobody."""
    for number, other in enumerate(faces):
        if number != place and not other.geometry.is_comparable:
            continue  # there is nothing to compare with: it lies under a mask
        original = other.original(picture, verifier)
        verdict = verifier.judge(original, output, elsewhere=number != place)
        if not verdict.safe:
            said = ", ".join(f"{name} {value:.2f}" for name, value in verdict.similarities.items())
            whom = "still recognizable" if number == place else f"recognized as face {number + 1}"
            return f"{whom} ({said})"
    return ""


def _changed(before: Pixels, after: Pixels) -> bool:
    """Whether two aligned crops of one place differ in the face itself."""
    side = len(before)
    inner = np.s_[side * 3 // 10 : side * 8 // 10, side * 3 // 10 : side * 8 // 10]
    return float(cv2.absdiff(before[inner], after[inner]).mean()) >= UNCHANGED
