"""Where one face is in its picture: its geometry, and the pixels that a level replaces there."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deid.faces.alignment import Points
from deid.faces.faces import Faces
from deid.gate.fallback import DESTRUCTIVE, GENERATIVE, OPAQUE, base
from deid.imaging.align import Square
from deid.imaging.paste import (
    FEATHER,
    Region,
    face_region,
    hard_region,
    hull_with_box,
    hull_with_oval,
    soft_region,
)
from deid.imaging.portrait import portrait_region


@dataclass(frozen=True, eq=False)
class Geometry:
    """In picture pixels: `box [4]`, the FFHQ square of five points, `hull [M,2]` around the face,
    and the `outline [27,2]` of its jaw and forehead, None where not seen; `landmarks [68,2]` where
    a new face is to be drawn from brow to chin only; where it is to be drawn with all that is
    about it, the outlines of the `others`, else None.

    A `hull` of None: it could not be placed, so its box is all that is known of it.
    """

    box: Points
    square: Square
    hull: Points | None = None
    outline: Points | None = None
    landmarks: Points | None = None
    others: tuple[Points, ...] | None = None

    @property
    def is_portrait(self) -> bool:
        """Whether a new face is to be drawn with all that is about it."""
        return self.others is not None

    @cached_property
    def longer(self) -> float:
        """The longer side of its box."""
        return float(max(self.box[2] - self.box[0], self.box[3] - self.box[1]))

    @cached_property
    def is_comparable(self) -> bool:
        """Whether its points can be those of a face, so that a judge may look there."""
        return self.hull is not None or is_plausible(self)


def detected(found: Faces, index: int) -> Geometry:
    """A face as a detector saw it, not placed yet."""
    return Geometry(found.boxes[index], Square(np.asarray(found.points[index], np.float64)))


def check_geometry(face: Geometry) -> None:
    """`ValueError` where a face's five points cannot be those of the face in its box."""
    points, box, longer = face.square.points, face.box, face.longer
    if not (np.isfinite(points).all() and np.isfinite(box).all()):
        raise ValueError("its points are not finite")
    middle, room = points.mean(axis=0), 0.25 * longer  # a box may end at the picture's edge
    inside = (box[:2] - room <= middle).all() and (middle <= box[2:] + room).all()
    if not (inside and 0.5 * longer < face.square.side < 6.0 * longer):
        raise ValueError("its points do not fit its box")


def is_plausible(face: Geometry) -> bool:
    """Whether `check_geometry` has nothing against it."""
    try:
        check_geometry(face)
    except ValueError:
        return False
    return True


def replaced_region(face: Geometry, level: str, shape: tuple[int, ...]) -> Region:
    """The pixels that a fallback level replaces in a picture of `shape`."""
    if base(level) in GENERATIVE and face.landmarks is not None:
        return face_region(face.landmarks, face.square, shape)
    if base(level) in GENERATIVE and face.hull is not None and face.others is not None:
        return portrait_region(face.square, face.hull, face.others, shape)
    return whole_region(face, level, shape)


def whole_region(face: Geometry, level: str, shape: tuple[int, ...]) -> Region:
    """The pixels of the whole face, however small a part of it a level that draws replaces."""
    kind = base(level)
    if level == OPAQUE or face.hull is None or kind == "pixelate":
        return hard_region(hull_with_box(face.hull, face.box), shape)
    outline = hull_with_oval(face.hull, face.box) if kind in DESTRUCTIVE else face.hull
    return soft_region(outline, shape, FEATHER * face.square.side)
