"""A detector that does not miss: one or several networks, shown a picture in many ways, united.

Recall comes first: a missed face is a leak, a false one costs some blurred pixels. So the networks
say whatever they suspect, and then look at each suspect once more, alone, upright and close by, as
the stages of a cascade do: a face is one there too, what resembled one from afar is not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deid.faces.detection.boxes import Boxes, Indices, areas, clusters, common, overlap
from deid.faces.detection.finder import Finder, no_faces
from deid.faces.detection.views import careful_views, close_view, single_view
from deid.faces.faces import Faces
from deid.pixels import Pixels

SMALLEST_BOX = 2.0  # pixels; less of a face than that in the frame is none
SAME_FACE = 0.4  # boxes that overlap more (intersection over union) are one face
SAME_BOX = 0.6  # what overlaps a suspect so much need not be looked at when that is none
INSIDE = 0.7  # so are boxes of which the smaller shares more than this with the larger
NEARLY = 0.9  # of the best score: a box as sure as that is no loose one
MUCH_LARGER = 4.0  # but of boxes so many times as large neither is a part of the other's face
SEEN_AGAIN = 0.5  # overlap from which a box of the second look is that of the first
SECOND_LOOKS = 1000  # in one picture, the best suspects first: noise raises them without end

Again = Callable[[Boxes, NDArray[np.float32]], bool]
"""A suspect's box `[4]` and five points `[5,2]` → whether a second look sees it."""


@dataclass(frozen=True)
class Look:
    """What one look found, in the picture's pixels."""

    faces: Faces
    sure: float  # the score from which this look alone is believed
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
        again = None if self.size is not None else second_look(self.finders, picture)
        return unite(looks, picture.shape[:2], again)


def look(finder: Finder, picture: Pixels, size: int | None) -> list[Look]:
    """All looks of one network at `uint8 [H,W,3]`; `size` as in `Detector`."""
    if size is not None:
        views = iter([single_view(picture, size)])
    else:
        views = careful_views(picture, finder.any_size, finder.any_turn)
    looks = []
    for view in views:
        found = view.to_faces(finder.find(view.pixels))
        looks.append(Look(found, finder.sure, firm=not view.aslant))
    return looks


def second_look(finders: Sequence[Finder], picture: Pixels) -> Again:
    """Whether any of the networks is sure of a suspect that it is shown alone (`close_view`)."""

    def again(box: Boxes, points: NDArray[np.float32]) -> bool:
        view = close_view(picture, box, points)
        return view is not None and any(
            (overlap(box, found.boxes)[found.scores >= finder.sure] > SEEN_AGAIN).any()
            for finder in finders
            for found in (view.to_faces(finder.find(view.pixels)),)
        )

    return again


def unite(looks: Sequence[Look], shape: tuple[int, ...], again: Again | None = None) -> Faces:
    """The faces of a picture `shape` (H, W, …), each once, from all looks at it.

    A face counts if it is seen `again`; without a second look, if a look is sure of it. Its score
    and points are its best box's; the box grows where one nearly as sure holds it. Scores of
    different networks are compared as they are: that decides only whose box stands. What is not
    finite is no face.
    """
    found = [look.faces for look in looks] or [no_faces()]
    boxes = np.concatenate([faces.boxes for faces in found])
    scores = np.concatenate([faces.scores for faces in found])
    points = np.concatenate([faces.points for faces in found])
    counts = [len(look.faces) for look in looks]
    certain = scores >= np.repeat([look.sure for look in looks], counts)
    firm = certain & np.repeat(np.array([look.firm for look in looks], np.bool_), counts)
    height, width = shape[:2]
    whole, boxes = boxes, boxes.clip(0, np.array([width, height] * 2, np.float32))
    finite = np.isfinite(boxes).all(1) & np.isfinite(scores) & np.isfinite(points).all((1, 2))
    real = finite & ((boxes[:, 2:] - boxes[:, :2]) >= SMALLEST_BOX).all(1)
    left = SECOND_LOOKS

    def believed(i: int) -> bool:
        nonlocal left
        left -= 1
        return again(whole[i], points[i]) if again and left >= 0 else bool(certain[i])

    suspects = np.flatnonzero(real if again else real & certain)
    order = suspects[np.argsort(-scores[suspects], kind="stable")]
    groups = confirmed(boxes, order, certain, believed)
    best = np.array([group[0] for group in groups], np.int64)
    extent = np.array(
        [grown(boxes[g], firm[g] & (scores[g] > NEARLY * scores[g[0]])) for g in groups], np.float32
    ).reshape(-1, 4)
    # Once more, for what lies in a box that has grown.
    groups = clusters(extent, scores[best], same_face)
    groups.sort(key=lambda group: -scores[best[group[0]]])
    first = best[[group[0] for group in groups]]
    return Faces(
        np.array([grown(extent[g], np.True_) for g in groups], np.float32).reshape(-1, 4),
        scores[first].clip(0, 1),
        points[first],
    )


def confirmed(
    boxes: Boxes, left: Indices, certain: NDArray[np.bool_], believed: Callable[[int], bool]
) -> list[Indices]:
    """The suspects `left`, best first, of `boxes` `[K,4]`, grouped by face, less what is none.

    With a box that is not believed go those that nearly are that box and are not `certain`, which
    are asked themselves; what lies in it stays, for what seems a giant's face may be the real ones
    of a crowd.
    """
    groups = []
    while len(left):
        best, rest = left[0], left[1:]
        if believed(int(best)):
            alike = same_face(boxes[best], boxes[rest])
            groups.append(np.concatenate([left[:1], rest[alike]]))
        else:
            alike = (overlap(boxes[best], boxes[rest]) > SAME_BOX) & ~certain[rest]
        left = rest[~alike]
    return groups


def same_face(box: Boxes, others: Boxes) -> NDArray[np.bool_]:
    """Whether less certain boxes `[M,4]` show the face of `box` `[4]`."""
    shared, area, theirs = common(box, others), areas(box), areas(others)
    smaller, larger = np.minimum(area, theirs), np.maximum(area, theirs)
    part = (shared > INSIDE * smaller) & (larger < MUCH_LARGER * smaller)
    return np.asarray(part | (overlap(box, others) > SAME_FACE))


def grown(boxes: Boxes, firm: NDArray[np.bool_] | np.bool_) -> Boxes:
    """The best, first, of one face's boxes `[M,4]`, with firm ones that hold nearly all of it."""
    best, area = boxes[0], areas(boxes[0])
    holds = firm & (common(best, boxes) > 0.9 * area) & (areas(boxes) > 1.5 * area)
    held = np.concatenate([boxes[:1], boxes[holds]])
    return np.concatenate([held[:, :2].min(0), held[:, 2:].max(0)])


class OneLook:
    """A world's own detector: each picture as it is. Satisfies `FaceDetector` and `Careful`."""

    def __init__(self, network: Finder) -> None:
        self.name, self._network = network.name, network

    def detect(self, pictures: Sequence[Pixels]) -> list[Faces]:
        """See `FaceDetector`."""
        return [self._network.find(picture) for picture in pictures]

    def finder(self) -> Finder:
        """See `Careful`."""
        return self._network
