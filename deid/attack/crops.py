"""The faces to be compared: those of each original, and what is now in their places."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from deid.attack.pairs import Folders, Pair, read_picture
from deid.errors import DeidError
from deid.faces.alignment import Points
from deid.faces.detection.boxes import iou
from deid.faces.faces import FaceDetector, Faces
from deid.gate.geometry import Geometry, detected
from deid.gate.place import Placing, place
from deid.imaging.align import Square, crop_face
from deid.imaging.paste import hull_of_landmarks
from deid.pixels import Pixels
from deid.progress import Bar
from deid.storage.protocol import Storage, StorageFailure, Unread

WHOLE = np.array([[0.375, 0.475], [0.625, 0.475], [0.5, 0.6], [0.42, 0.725], [0.58, 0.725]])
"""Five points whose FFHQ square is the whole picture, in its sides."""
SAME_SHAPE = 0.02  # by which the ratios of two pictures' sides may differ
MIN_OVERLAP = 0.3  # of a detector's box with the place of the original's face
APART = 0.1  # of it with any place, below which a detector's box is no face of the original
LEAST_SIDE = 32  # pixels of a face's box, under which nobody is recognized; the largest face counts
GRAY, NEARLY_NOBODY = 128, 0.05
ORIGINAL = "originals that are no picture, not examined"
OUTPUT = "outputs that are not one whole picture, counted as missing"


@dataclass(frozen=True)
class Detectors:
    """What finds faces: `main` cuts them out; each of `named` is asked whether it finds them."""

    main: FaceDetector
    named: Mapping[str, FaceDetector]


@dataclass(frozen=True)
class Crops:
    """N faces, FFHQ-aligned, before and after; `float` landmarks in pixels of a crop."""

    pairs: Sequence[Pair]  # [N], of which output and face are there
    originals: Pixels  # uint8 [N,S,S,3]
    outputs: Pixels  # uint8 [N,S,S,3]
    again: Pixels | None  # uint8 [M,S,S,3], of a second anonymization: of the M largest faces
    landmarks: NDArray[np.float64]  # [N,68,2], of the originals
    points: NDArray[np.float64]  # [N,5,2], of the originals
    found: Mapping[str, NDArray[np.bool_]]  # by detector, [A]: of ALL faces, of missing outputs too
    notes: Mapping[str, int]  # what was odd, and how often
    missing: tuple[str, ...]  # originals without an output
    unexamined: tuple[str, ...]  # originals with an output in which a face was not looked at
    strays: tuple[str, ...] = ()  # outputs without an original

    def largest(self) -> "Crops":
        """Each picture's largest face alone."""
        rows = [row for row, pair in enumerate(self.pairs) if pair.face == 1]
        return replace(
            self,
            pairs=[self.pairs[row] for row in rows],
            originals=self.originals[rows],
            outputs=self.outputs[rows],
            landmarks=self.landmarks[rows],
            points=self.points[rows],
        )

    def masked(self, inside: bool) -> tuple[Pixels, Pixels]:
        """Originals and outputs, the face itself in gray, or (not `inside`) all but the face.

        One mask for all, since a person's own would be their outline: what lies in the face of
        nearly nobody is outside, what lies in nearly everybody's is inside.
        """
        hulls = np.zeros(self.originals.shape[:3], np.uint8)
        for mask, points in zip(hulls, self.landmarks, strict=True):
            hull = np.rint(hull_of_landmarks(points)).astype(np.int32)
            cv2.fillConvexPoly(mask, hull, 1)
        share = hulls.mean(axis=0)
        gone = (share > NEARLY_NOBODY) if inside else (share < 1 - NEARLY_NOBODY)
        gray = np.uint8(GRAY)
        masked = [
            np.where(gone[..., None], gray, faces) for faces in (self.originals, self.outputs)
        ]
        return masked[0], masked[1]


@dataclass(frozen=True)
class _Place:
    """Where one of an original's faces is, in shares of its picture's sides."""

    points: Points  # [5,2]
    box: Points  # [4]
    ratio: float  # width by height

    def fits(self, picture: Pixels) -> bool:
        """Whether a picture has the original's shape, so that the face is where it was."""
        height, width = picture.shape[:2]
        return bool(abs(width / height / self.ratio - 1) <= SAME_SHAPE)


def cut(
    folders: Folders, pairs: Sequence[Pair], detectors: Detectors, placing: Placing, bar: Bar
) -> Crops:
    """Read every picture once and cut out its faces; `DeidError` where no two faces are left.

    The picture's person is its largest face; each other one is somebody else (`Pair.of_face`).
    An attacker knows where a face was, so an output is cut at the place of the original's face,
    whether or not anything is found there. Where the output has another shape, it is cut at its own
    largest face, else taken as a whole.
    """
    reader = _Reader(folders, detectors, placing)
    for pair in pairs:
        reader.add(pair)
        bar.advance()
    return reader.crops()


class _Reader:
    """Collects the crops of one pair after the other."""

    def __init__(self, folders: Folders, detectors: Detectors, placing: Placing) -> None:
        self.folders, self.detectors, self.placing = folders, detectors, placing
        self.kept: list[tuple[Pair, Points, Pixels, Pixels]] = []
        self.again: list[Pixels | None] = []
        self.found: dict[str, list[bool]] = {name: [] for name in detectors.named}
        self.notes: dict[str, int] = {}
        self.missing: list[str] = []
        self.unexamined: list[str] = []

    def add(self, pair: Pair) -> None:
        """Read a pair, and what was made of it again."""
        original = self._read(self.folders.originals, pair.original, ORIGINAL)
        places = [] if original is None else self._places(original)
        output = self._read(self.folders.outputs, pair.output, OUTPUT)
        if original is None or not places:
            if output is not None:
                self.unexamined.append(pair.original)
            return
        whole = self._look(pair, output, places)
        if output is None:
            self.missing.append(pair.original)
            return
        again = None
        if self.folders.again is not None:
            again = self._read(self.folders.again, pair.again, OUTPUT)
        for number, at in enumerate(places if whole else places[:1], 1):
            before = crop_face(original, _square(at, original), self.placing.side)
            if number == 1:
                self.again.append(None if again is None else self._cut(again, at))
            one = pair.of_face(number)
            self.kept.append((one, at.points, before, self._cut(output, at)))

    def _look(self, pair: Pair, output: Pixels | None, places: Sequence[_Place]) -> bool:
        """Note in which places each detector finds a face; whether all can be looked at."""
        elsewhere = 0
        for name, detector in self.detectors.named.items():
            faces = None if output is None else detector.detect([output])[0]
            self.found[name] += [output is not None and _finds(faces, output, at) for at in places]
            elsewhere += output is not None and _finds_another(faces, output, places)
        if output is None:
            return False
        if elsewhere > len(self.detectors.named) / 2:
            self._note("outputs with faces where the original has none: turned or moved?")
            self.unexamined.append(pair.original)
        elif len(places) > 1 and not places[0].fits(output):
            self._note("outputs of another shape, of whose faces one was looked at")
            self.unexamined.append(pair.original)
            return False
        return True

    def crops(self) -> Crops:
        """Everything that was collected."""
        if len({pair.person for pair, *_ in self.kept if pair.face == 1}) < 2:
            raise DeidError("fewer than two people have a face and an output; nothing to compare")
        pairs, _, originals, outputs = zip(*self.kept, strict=True)
        again = [one for one in self.again if one is not None]
        side = self.placing.side
        whole = Square(WHOLE * side)
        stacked = np.stack(originals)
        return Crops(
            pairs=pairs,
            originals=stacked,
            outputs=np.stack(outputs),
            again=np.stack(again) if len(again) == len(self.again) else None,
            landmarks=self.placing.see(stacked),
            points=np.tile(whole.points_in(side), (len(pairs), 1, 1)),
            found={name: np.array(found) for name, found in self.found.items()},
            notes=self.notes,
            missing=tuple(self.missing),
            unexamined=tuple(self.unexamined),
        )

    def _read(self, storage: Storage, name: str | None, kind: str) -> Pixels | None:
        if name is None:
            return None
        try:
            return read_picture(storage, name, one_frame=kind == OUTPUT)
        except (StorageFailure, Unread):
            raise  # it is there perhaps, and must not count as missing
        except DeidError:
            self._note(kind)
            return None

    def _places(self, picture: Pixels) -> list[_Place]:
        """Of the faces of an original, the largest one first."""
        faces = self._faces(picture)
        height, width = picture.shape[:2]
        size = np.array([width, height], np.float64)
        if not faces:
            if width != height:
                self._note("originals without a face, not examined")
                return []
            self._note("originals without a detected face, taken as aligned as a whole")
            return [_Place(WHOLE, np.array([0.2, 0.2, 0.8, 0.95]), 1.0)]
        large = [face for face in faces[1:] if min(face.box[2:] - face.box[:2]) >= LEAST_SIDE]
        if small := len(faces) - 1 - len(large):
            self._note(f"faces under {LEAST_SIDE} px beside larger ones, not examined", small)
        return [
            _Place(face.square.points / size, face.box / np.tile(size, 2), width / height)
            for face in (faces[0], *large)
        ]

    def _cut(self, picture: Pixels, at: _Place) -> Pixels:
        if at.fits(picture):
            return crop_face(picture, _square(at, picture), self.placing.side)
        faces = self._faces(picture)[:1]
        if not faces:
            self._note("outputs of another shape without a face, compared as a whole")
            whole = Square(WHOLE * np.array(picture.shape[1::-1]))
            return crop_face(picture, whole, self.placing.side)
        self._note("outputs of another shape, cut at their own largest face")
        return crop_face(picture, faces[0].square, self.placing.side)

    def _faces(self, picture: Pixels) -> list[Geometry]:
        """Placed by their landmarks, the largest first."""
        found = self.detectors.main.detect([picture])[0]
        order = np.argsort(-_areas(found), kind="stable")
        faces = [detected(found, int(index)) for index in order]
        placements = place(picture, faces, [True] * len(faces), self.placing)
        return [
            face if placement.error is not None else placement.geometry
            for face, placement in zip(faces, placements, strict=True)
        ]

    def _note(self, text: str, count: int = 1) -> None:
        self.notes[text] = self.notes.get(text, 0) + count


def _square(at: _Place, picture: Pixels) -> Square:
    return Square(at.points * np.array(picture.shape[1::-1], np.float64))


def _areas(found: Faces) -> NDArray[np.float32]:
    return np.asarray((found.boxes[:, 2:] - found.boxes[:, :2]).clip(0).prod(axis=1))


def _finds(found: Faces | None, picture: Pixels, at: _Place) -> bool:
    if found is None or len(found) == 0 or not at.fits(picture):
        return found is not None and len(found) > 0
    return bool((iou(_box(at, picture), found.boxes) >= MIN_OVERLAP).any())


def _finds_another(found: Faces | None, picture: Pixels, places: Sequence[_Place]) -> bool:
    """Whether a face is found that is none of an original's, large enough to be recognized."""
    if found is None or len(found) == 0 or not places[0].fits(picture):
        return False
    sides = (found.boxes[:, 2:] - found.boxes[:, :2]).min(axis=1)
    near = np.max([iou(_box(at, picture), found.boxes) for at in places], axis=0)
    return bool(((sides >= LEAST_SIDE) & (near < APART)).any())


def _box(at: _Place, picture: Pixels) -> NDArray[np.float32]:
    size = np.array(picture.shape[1::-1])
    return np.asarray(at.box * np.tile(size, 2), dtype=np.float32)
