"""A detector that does not miss: one or several networks, shown a picture in many ways, united.

Recall comes first: a missed face is a leak, a false one costs some blurred pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deid.detection.boxes import Boxes, areas, clusters, common, overlap
from deid.detection.finder import Finder
from deid.detection.views import careful_views, single_view
from deid.images import Pixels
from deid.worlds.world import Faces

SMALLEST_BOX = 2.0  # pixels; less of a face than that in the frame is none
SAME_FACE = 0.4  # boxes that overlap more (intersection over union) are one face
INSIDE = 0.7  # so are boxes of which the smaller shares more than this with the larger
NEARLY = 0.9  # of the best score: a box as sure as that is no loose one
NEVER = 2.0  # no score is so high
MUCH_LARGER = 4.0  # but a less certain box so many times as large is no part of the better one


@dataclass(frozen=True)
class Look:
    """What one look found, in the picture's pixels."""

    faces: Faces
    scale: float  # of the picture, as it was shown
    sure: float  # the score from which this look alone is believed
    turned: bool = False  # so that a look that was not goes before
    firm: bool = True  # whether its boxes are close enough to say how far a face reaches


class Detector:
    """Satisfies `deid.worlds.world.FaceDetector`.

    `size` None is the careful mode (`careful_views`); a number is one look with that longer side.
    """

    def __init__(self, finders: Sequence[Finder], size: int | None = None) -> None:
        self.finders, self.size = tuple(finders), size
        names = " + ".join(f"{f.name}@{f.threshold:g}/{f.sure:g}" for f in self.finders)
        self.name = f"{names}, {'careful' if size is None else f'{size} px'}"

    def detect(self, pictures: Sequence[Pixels]) -> list[Faces]:
        """See `FaceDetector`."""
        return [self._detect(picture) for picture in pictures]

    def _detect(self, picture: Pixels) -> Faces:
        looks = [seen for finder in self.finders for seen in look(finder, picture, self.size)]
        return unite(looks, picture.shape[:2])


def look(finder: Finder, picture: Pixels, size: int | None) -> list[Look]:
    """All looks of one network at `uint8 [H,W,3]`; `size` as in `Detector`."""
    if size is not None:
        views = iter([single_view(picture, size)])
    else:
        views = careful_views(picture, finder.any_size)
    looks = []
    for view in views:
        found = view.to_faces(finder.find(view.pixels))
        turned = not (view.upright or finder.knows_up)
        sure = NEVER if turned else finder.sure
        looks.append(Look(found, view.scale, sure, turned, firm=not view.aslant))
    return looks


def unite(looks: Sequence[Look], shape: tuple[int, ...]) -> Faces:
    """The faces of a picture `shape` (H, W, …), each once, from all looks at it.

    A face's score and points are its best box's; the box grows where one nearly as sure holds it.
    A face of which no look is sure counts if two looks at different scales agree: a face is one at
    any scale, noise that resembles one is not. Scores of different networks are compared as they
    are: that decides only whose box stands. What is not finite is no face.
    """
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(look.faces.boxes for look in looks)])
    scores = np.concatenate([np.zeros(0, np.float32), *(look.faces.scores for look in looks)])
    points = np.concatenate(
        [np.zeros((0, 5, 2), np.float32), *(look.faces.points for look in looks)]
    )
    counts = [len(look.faces) for look in looks]
    certain = scores >= np.repeat([look.sure for look in looks], counts)
    scales = np.repeat([look.scale for look in looks], counts)
    firm = certain & np.repeat(np.array([look.firm for look in looks], np.bool_), counts)
    rank = scores - np.repeat([float(look.turned) for look in looks], counts).astype(np.float32)
    height, width = shape[:2]
    boxes = boxes.clip(0, np.array([width, height] * 2, np.float32))
    finite = np.isfinite(boxes).all(1) & np.isfinite(scores) & np.isfinite(points).all((1, 2))
    real = np.flatnonzero(finite & ((boxes[:, 2:] - boxes[:, :2]) >= SMALLEST_BOX).all(1))
    groups = [real[group] for group in clusters(boxes[real], rank[real], same_face)]
    groups = [g for g in groups if certain[g].any() or len(np.unique(scales[g])) > 1]
    best = np.array([group[0] for group in groups], np.int64)
    whole = np.array(
        [grown(boxes[g], firm[g] & (scores[g] > NEARLY * scores[g[0]])) for g in groups], np.float32
    ).reshape(-1, 4)
    # Once more, for what lies in a box that has grown.
    groups = clusters(whole, rank[best], same_face)
    groups.sort(key=lambda group: -scores[best[group[0]]])
    first = best[[group[0] for group in groups]]
    return Faces(
        np.array([grown(whole[g], np.True_) for g in groups], np.float32).reshape(-1, 4),
        scores[first].clip(0, 1),
        points[first],
    )


def same_face(box: Boxes, others: Boxes) -> NDArray[np.bool_]:
    """Whether less certain boxes `[M,4]` show the face of `box` `[4]`."""
    shared, area, theirs = common(box, others), areas(box), areas(others)
    part = (shared > INSIDE * np.minimum(area, theirs)) & (theirs < MUCH_LARGER * area)
    return np.asarray(part | (overlap(box, others) > SAME_FACE))


def grown(boxes: Boxes, firm: NDArray[np.bool_] | np.bool_) -> Boxes:
    """The best, first, of one face's boxes `[M,4]`, with firm ones that hold nearly all of it."""
    best, area = boxes[0], areas(boxes[0])
    holds = firm & (common(best, boxes) > 0.9 * area) & (areas(boxes) > 1.5 * area)
    held = np.concatenate([boxes[:1], boxes[holds]])
    return np.concatenate([held[:, :2].min(0), held[:, 2:].max(0)])


class OneLook:
    """A world's own detector: each picture as it is. Satisfies `FaceDetector` and `Careful`."""

    enough = False

    def __init__(self, network: Finder) -> None:
        self.name, self._network = network.name, network

    def detect(self, pictures: Sequence[Pixels]) -> list[Faces]:
        """See `FaceDetector`."""
        return [self._network.find(picture) for picture in pictures]

    def finder(self) -> Finder:
        """See `Careful`."""
        return self._network
