"""From what many passes found to the faces of a picture, each once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deid.faces.detection.boxes import (
    Boxes,
    Indices,
    areas,
    clusters,
    intersection,
    iou,
    shared_part,
)
from deid.faces.faces import Faces

SMALLEST_BOX = 2.0  # pixels; less of a face than that in the frame is none
SAME_FACE = 0.4  # boxes of a higher IoU are one face
SAME_BOX = 0.6  # what overlaps a refused suspect so much is refused with it
INSIDE = 0.7  # one face are also boxes of which the smaller shares more than this with the larger
MUCH_LARGER = 4.0  # but of boxes so many times as large neither is a part of the other's face
NEARLY = 0.9  # of the best score: a tight box with more than that may extend the best one
CLOSE_UPS = 1000  # in one picture, the best suspects first: noise raises them without end

SURER = 0.8  # a face is much surer than a suspect whose score is less than this share of its own

Confirm = Callable[[Boxes, NDArray[np.float32], Boxes], bool]
"""A suspect's box `[4]`, five points `[5,2]` and smaller faces `[M,4]` → whether a close-up shows a
face, also when the smaller ones are hidden."""


@dataclass(frozen=True)
class Pass:
    """What one pass found, in the picture's pixels."""

    faces: Faces
    confidence_threshold: float  # the score from which this pass alone is accepted
    tight: bool = True  # whether its boxes are close enough to say how far a face reaches


@dataclass(frozen=True)
class Suspects:
    """What all passes found, best first; boxes as they are and as far as they lie in the frame."""

    whole: Boxes
    boxes: Boxes
    scores: NDArray[np.float32]
    points: NDArray[np.float32]
    confident: NDArray[np.bool_]
    tight: NDArray[np.bool_]


def merge_detections(
    passes: Sequence[Pass], shape: tuple[int, ...], confirm: Confirm | None = None
) -> Faces:
    """The faces of a picture `shape` (H, W, …), each once, from all passes over it.

    A face counts if a close-up confirms it; where there are none, if a pass is confident. Its score
    and points are its best box's; the box grows where one with nearly that score holds it. Scores
    of different networks are compared as they are: that decides only whose box stands. What is not
    finite is no face.
    """
    found = suspects(passes, shape)
    groups = accepted(found, confirm)
    best = np.array([group[0] for group in groups], np.int64)
    boxes, scores = found.boxes, found.scores
    extending = found.confident & found.tight
    extent = np.array(
        [grown(boxes[g], extending[g] & (scores[g] > NEARLY * scores[g[0]])) for g in groups],
        np.float32,
    ).reshape(-1, 4)
    # Once more, for what lies in a box that has grown.
    groups = clusters(extent, scores[best], same_face)
    groups.sort(key=lambda group: -scores[best[group[0]]])
    first = best[[group[0] for group in groups]]
    return Faces(
        np.array([grown(extent[g], np.True_) for g in groups], np.float32).reshape(-1, 4),
        scores[first].clip(0, 1),
        found.points[first],
    )


def suspects(passes: Sequence[Pass], shape: tuple[int, ...]) -> Suspects:
    """All that was found and lies in the frame, `shape` (H, W, …)."""
    found = [p.faces for p in passes] or [Faces.none()]
    whole = np.concatenate([faces.boxes for faces in found])
    scores = np.concatenate([faces.scores for faces in found])
    points = np.concatenate([faces.points for faces in found])
    counts = [len(p.faces) for p in passes]
    confident = scores >= np.repeat([p.confidence_threshold for p in passes], counts)
    tight = np.repeat(np.array([p.tight for p in passes], np.bool_), counts)
    boxes = whole.clip(0, np.array([shape[1], shape[0]] * 2, np.float32))
    finite = np.isfinite(boxes).all(1) & np.isfinite(scores) & np.isfinite(points).all((1, 2))
    real = np.flatnonzero(finite & ((boxes[:, 2:] - boxes[:, :2]) >= SMALLEST_BOX).all(1))
    order = real[np.argsort(-scores[real], kind="stable")]
    return Suspects(
        whole[order], boxes[order], scores[order], points[order], confident[order], tight[order]
    )


def accepted(found: Suspects, confirm: Confirm | None) -> list[Indices]:
    """The suspects that are faces, grouped by face, each group's best first.

    With a box that is refused go those that nearly are that box and are not confident, which are
    shown themselves; what lies in it stays, for what seems a giant's face may be the real ones of a
    crowd. So a suspect that holds smaller, much surer faces is shown with these hidden: a grid of
    portraits is then no face any more, while a face with a poster or people before it still is.
    """
    groups: list[Indices] = []
    left, shown = np.arange(len(found.scores)), 0
    if confirm is None:
        left = left[found.confident]
    while len(left):
        best, rest = left[0], left[1:]
        box = found.boxes[best]
        shown += 1
        if confirm is None or shown > CLOSE_UPS:
            face = bool(found.confident[best])
        else:
            hidden = held_faces(found, best, groups)
            face = confirm(found.whole[best], found.points[best], hidden)
        if face:
            alike = same_face(box, found.boxes[rest])
            groups.append(np.concatenate([left[:1], rest[alike]]))
        else:
            alike = (iou(box, found.boxes[rest]) > SAME_BOX) & ~found.confident[rest]
        left = rest[~alike]
    return groups


def held_faces(found: Suspects, suspect: int, groups: list[Indices]) -> Boxes:
    """The accepted faces `[M,4]` in a suspect's box that are much smaller and much surer."""
    best = np.array([group[0] for group in groups], np.int64)
    boxes, box = found.boxes[best], found.boxes[suspect]
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((middle >= box[:2]) & (middle <= box[2:])).all(1)
    smaller = areas(boxes) * MUCH_LARGER < areas(box)
    surer = found.scores[suspect] < SURER * found.scores[best]
    return np.asarray(boxes[inside & smaller & surer])


def same_face(box: Boxes, others: Boxes) -> NDArray[np.bool_]:
    """Whether boxes `[M,4]` with lower scores show the face of `box` `[4]`."""
    area, theirs = areas(box), areas(others)
    alike = np.maximum(area, theirs) < MUCH_LARGER * np.minimum(area, theirs)
    part = (shared_part(box, others) > INSIDE) & alike
    return np.asarray(part | (iou(box, others) > SAME_FACE))


def grown(boxes: Boxes, extending: NDArray[np.bool_] | np.bool_) -> Boxes:
    """The best, first, of one face's boxes `[M,4]`, with `extending` ones that hold nearly all."""
    best, area = boxes[0], areas(boxes[0])
    holds = extending & (intersection(best, boxes) > 0.9 * area) & (areas(boxes) > 1.5 * area)
    held = np.concatenate([boxes[:1], boxes[holds]])
    return np.concatenate([held[:, :2].min(0), held[:, 2:].max(0)])
