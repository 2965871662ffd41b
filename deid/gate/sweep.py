"""The sweep: every face that a detector finds in the finished picture.

It is compared with every original of the picture, and one that nobody handled gets its own fallback
chain.
"""

import logging
from collections.abc import Sequence

import numpy as np

from deid.faces.alignment import Points
from deid.faces.faces import Faces
from deid.gate.face import Face, embed_face, error_line
from deid.gate.geometry import Geometry, is_plausible
from deid.gate.judges import Verifier
from deid.gate.recognize import recognized
from deid.imaging.align import Square
from deid.imaging.paste import coverage, hard_region, hull_of_box, hull_of_points
from deid.pixels import Pixels

log = logging.getLogger(__name__)

HANDLED = 0.65
"""Share of a face found anew that must lie in a handled region, else nobody handled it."""
ELSEWHERE = 0.1
"""Of a handled face's FFHQ square, by which five points on average lie off its own, if they are
another face's."""
AROUND = [0, 1, 4, 3]
"""Of five points, those of eyes and mouth in the order of an outline."""
SAME = 4.0
"""Levels by which an encoder alone changes a face."""
BURIED = 0.9
"""Share under opaque masks from which nothing of a face is left to be compared."""


def sweep(
    picture: Pixels, final: Pixels, found: Faces, faces: Sequence[Face], verifier: Verifier
) -> list[int]:
    """Which of the faces `found` in the finished picture nobody handled.

    One found in a handled face's place that is recognized as any original lets that face escalate.
    """
    unhandled = []
    levels = [face.levels for face in faces]
    regions = [face.whole(final.shape) for face in faces]
    masks = [r for r, face in zip(regions, faces, strict=True) if face.opaque]
    for index in range(len(found)):
        points = found.points[index]
        if any(face.kept and _is_at(points, face) for face in faces):
            continue  # it was to be kept, however much of its outline a neighbor took
        outline = _outline(Geometry(found.boxes[index], Square(points)))
        if masks and coverage(outline, masks, final.shape) >= BURIED:
            continue
        shares = [coverage(outline, [region], final.shape) for region in regions]
        place = int(np.argmax(shares)) if shares else 0
        lost = not shares or shares[place] < HANDLED
        if lost or _untouched(picture, final, points, faces[place]):
            unhandled.append(index)
        elif faces[place].kept or faces[place].levels != levels[place]:
            continue  # it was to be kept; or it escalated just now, and comes again
        elif not _stranger(picture, final, points, faces, place, verifier) and faces[place].opaque:
            unhandled.append(index)  # the mask leaves too much of it
    return unhandled


def _is_at(points: Points, face: Face) -> bool:
    """Whether the five points of a face found anew are those of that face."""
    square = face.geometry.square
    off = np.linalg.norm(points - square.points, axis=1).mean()
    return bool(off < ELSEWHERE * square.side)


def _untouched(picture: Pixels, final: Pixels, points: Points, face: Face) -> bool:
    """Whether a face found in a handled one's place is another one, with its own pixels still."""
    if _is_at(points, face):
        return False
    try:
        region = hard_region(np.asarray(points, np.float64)[AROUND], final.shape)
    except ValueError:  # outside the picture, where there is nothing to compare
        return False
    x0, y0, x1, y1 = region.window
    before, after = (one[y0:y1, x0:x1][region.alpha > 0] for one in (picture, final))
    return bool(np.abs(before.astype(np.int16) - after).mean() <= SAME)


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
        output = embed_face(final, Square(np.asarray(points, np.float64)), verifier)
        known = recognized(picture, output, faces, place, verifier)
    except Exception as error:
        log.debug("face at %s", face.geometry.box, exc_info=True)
        if not face.opaque:
            face.escalate(f"not verified by the sweep, {error_line(error)}", to_mask=True)
        return False
    if known and not face.opaque:
        face.escalate(f"{known} by the sweep")
    return not known


def _outline(face: Geometry) -> Points:
    return hull_of_points(face.square) if is_plausible(face) else hull_of_box(face.box)
