"""The faces to be compared: each original's largest one, and what is now in its place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
    again: Pixels | None  # uint8 [N,S,S,3], of a second anonymization
    landmarks: NDArray[np.float64]  # [N,68,2], of the originals
    points: NDArray[np.float64]  # [N,5,2], of the originals
    found: Mapping[str, NDArray[np.bool_]]  # by detector, [A]: of ALL pairs, missing ones too
    notes: Mapping[str, int]  # what was odd, and how often
    missing: tuple[str, ...]  # originals without an output
    unexamined: tuple[str, ...]  # originals without a face, or no picture, that have an output
    strays: tuple[str, ...] = ()  # outputs without an original

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
    """Where an original's face is, in shares of its picture's sides."""

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
    """Read every picture once and cut out its face; `DeidError` where no two faces are left.

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
        self.kept: list[tuple[Pair, Points, Pixels, Pixels, Pixels | None]] = []
        self.found: dict[str, list[bool]] = {name: [] for name in detectors.named}
        self.notes: dict[str, int] = {}
        self.missing: list[str] = []
        self.unexamined: list[str] = []

    def add(self, pair: Pair) -> None:
        """Read a pair, and what was made of it again."""
        original = self._read(self.folders.originals, pair.original, ORIGINAL)
        at = None if original is None else self._place(original)
        output = self._read(self.folders.outputs, pair.output, OUTPUT)
        if original is None or at is None:
            if output is not None:
                self.unexamined.append(pair.original)
            return
        for name, detector in self.detectors.named.items():
            self.found[name].append(output is not None and _finds(detector, output, at))
        if output is None:
            self.missing.append(pair.original)
            return
        again = None
        if self.folders.again is not None:
            picture = self._read(self.folders.again, pair.again, OUTPUT)
            again = None if picture is None else self._cut(picture, at)
        before = crop_face(original, _square(at, original), self.placing.side)
        self.kept.append((pair, at.points, before, self._cut(output, at), again))

    def crops(self) -> Crops:
        """Everything that was collected."""
        if len({pair.person for pair, *_ in self.kept}) < 2:
            raise DeidError("fewer than two people have a face and an output; nothing to compare")
        pairs, _, originals, outputs, again = zip(*self.kept, strict=True)
        side = self.placing.side
        whole = Square(WHOLE * side)
        stacked = np.stack(originals)
        return Crops(
            pairs=pairs,
            originals=stacked,
            outputs=np.stack(outputs),
            again=None if any(one is None for one in again) else np.stack(again),
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

    def _place(self, picture: Pixels) -> _Place | None:
        face = self._largest(picture, "originals with several faces, of which the largest counts")
        height, width = picture.shape[:2]
        size = np.array([width, height], np.float64)
        if face is None:
            if width != height:
                self._note("originals without a face, not examined")
                return None
            self._note("originals without a detected face, taken as aligned as a whole")
            return _Place(WHOLE, np.array([0.2, 0.2, 0.8, 0.95]), 1.0)
        return _Place(face.square.points / size, face.box / np.tile(size, 2), width / height)

    def _cut(self, picture: Pixels, at: _Place) -> Pixels:
        if at.fits(picture):
            return crop_face(picture, _square(at, picture), self.placing.side)
        face = self._largest(picture)
        if face is None:
            self._note("outputs of another shape without a face, compared as a whole")
            whole = Square(WHOLE * np.array(picture.shape[1::-1]))
            return crop_face(picture, whole, self.placing.side)
        self._note("outputs of another shape, cut at their own largest face")
        return crop_face(picture, face.square, self.placing.side)

    def _largest(self, picture: Pixels, note: str = "") -> Geometry | None:
        found = self.detectors.main.detect([picture])[0]
        if len(found) == 0:
            return None
        if len(found) > 1 and note:
            self._note(note)
        face = detected(found, int(np.argmax(_areas(found))))
        placement = place(picture, [face], [True], self.placing)[0]
        return face if placement.error is not None else placement.geometry

    def _note(self, text: str) -> None:
        self.notes[text] = self.notes.get(text, 0) + 1


def _square(at: _Place, picture: Pixels) -> Square:
    return Square(at.points * np.array(picture.shape[1::-1], np.float64))


def _areas(found: Faces) -> NDArray[np.float32]:
    return np.asarray((found.boxes[:, 2:] - found.boxes[:, :2]).clip(0).prod(axis=1))


def _finds(detector: FaceDetector, picture: Pixels, at: _Place) -> bool:
    found = detector.detect([picture])[0]
    if len(found) == 0 or not at.fits(picture):
        return len(found) > 0
    box = at.box * np.tile(np.array(picture.shape[1::-1]), 2)
    return bool((iou(box.astype(np.float32), found.boxes) >= MIN_OVERLAP).any())
