"""Where a face begins: found by a detector, placed, at the first level of its fallback chain."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from deid.faces.detection.boxes import Boxes, iou
from deid.faces.faces import Faces
from deid.gate.components import Components
from deid.gate.face import KEPT, Face, error_line
from deid.gate.fallback import OPAQUE, levels_of
from deid.gate.geometry import detected
from deid.gate.limits import Limits
from deid.gate.place import place
from deid.imaging.portrait import square_outline
from deid.pixels import Pixels

TAKEN = 0.5
"""Intersection over union of a face's box with that of one which stays, from which on it is in the
other's place."""


def find_faces(picture: Pixels, components: Components, method: str) -> list[Face]:
    """The faces of `uint8 [H,W,3]`, placed, each at the level at which `method` begins."""
    admission = Admission(picture, components, method, lambda _: 0, Limits())
    return admission.admit(components.detector.detect([picture])[0], "detector")


@dataclass(frozen=True)
class Admission:
    """What all faces of a picture begin with; `seed(i)` is the seed of face i."""

    picture: Pixels
    components: Components
    method: str
    seed: Callable[[int], int]
    limits: Limits

    def admit(
        self,
        found: Faces,
        by: str,
        before: Sequence[Face] = (),
        which: Sequence[int] | None = None,
        opaque: bool = False,
    ) -> list[Face]:
        """Faces placed and at their first levels, numbered after those `before`."""
        indices = range(len(found)) if which is None else which
        faces = [
            self._new_face(found, index, number, by, opaque)
            for number, index in enumerate(indices, len(before))
        ]
        if not opaque:
            self._place(faces)
        stay = [face.geometry.box for face in before if face.kept]
        for face in faces:
            if self._keeps(face, np.asarray(stay, np.float32).reshape(-1, 4)):
                face.levels = (KEPT, OPAQUE)
        if self.components.region == "portrait":
            acquaint([*before, *faces])
        return faces

    def _new_face(self, found: Faces, index: int, number: int, by: str, opaque: bool) -> Face:
        geometry = detected(found, index)
        small = geometry.longer < self.limits.smallest
        levels = (OPAQUE,) if opaque else levels_of(self.method, small, self.components.anonymizers)
        return Face(geometry, float(found.scores[index]), self.seed(number), levels, by)

    def _keeps(self, face: Face, stay: Boxes) -> bool:
        """Whether it is to stay as it is: nobody who appears where one of the boxes `stay` is."""
        if self.components.chooser is None or iou(face.geometry.box, stay).max(initial=0) >= TAKEN:
            return False
        return self.components.chooser.keeps(self.picture, face)

    def _place(self, faces: Sequence[Face]) -> None:
        geometries, drawn = [face.geometry for face in faces], [face.is_drawn for face in faces]
        placements = place(self.picture, geometries, drawn, self.components.placing)
        for face, placement in zip(faces, placements, strict=True):
            face.geometry = placement.geometry
            if placement.error is not None:
                face.escalate(error_line(placement.error), to_mask=True)


def acquaint(faces: Sequence[Face]) -> None:
    """Tell each of all faces of a picture where the others are, for a portrait leaves them to
    themselves: of those that stay as they are, their whole squares."""
    grounds = [
        square_outline(face.geometry.square, face.geometry.hull)
        if face.kept
        else face.geometry.hull
        for face in faces
    ]
    for number, face in enumerate(faces):
        others = [*grounds[:number], *grounds[number + 1 :]]
        face.meet([outline for outline in others if outline is not None])
