"""One face of a picture and its fallback level: where it is, what it is made of by now."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deid.faces.alignment import Points, apply_affine, crop_to_picture, five_points, invert_affine
from deid.gate.fallback import DESTRUCTIVE, OPAQUE, base, refinement
from deid.gate.judges import Embeddings, Verifier
from deid.imaging.align import crop_face, native_side
from deid.imaging.fit import fit_outline, outline_of_landmarks
from deid.imaging.paste import (
    FEATHER,
    PLAUSIBLE,
    Region,
    hard_region,
    hull_of_landmarks,
    hull_of_points,
    hull_with_box,
    hull_with_oval,
    plausible,
    soft_region,
)
from deid.pixels import Pixels, to_tensor
from deid.seeds import seed_of
from deid.worlds.world import LandmarkNetwork

log = logging.getLogger(__name__)

TOGETHER = 32
"""Crops that the landmark network sees at a time."""

FAR = 0.2
"""Share of the side by which landmarks that will be looked at again may miss detected points."""

KEPT = "kept"
"""In place of a level, of a face that a person chose to leave as it is."""


@dataclass(frozen=True)
class FaceRecord:
    """What became of one face; goes into the manifest as it is."""

    box: tuple[int, int, int, int]
    score: float
    method: str  # the level whose pixels were written, or "kept"
    verdict: str  # "verified", "masked" or "kept"
    similarities: Mapping[str, float]  # of what was written, for each judge
    failures: tuple[str, ...]  # why higher levels were left
    level: int = 1  # how many levels were tried
    found: str = "detector"  # or "sweep": only in a picture that was already anonymized


@dataclass
class Face:
    """`points [5,2]` and `hull [M,2]` in picture pixels; `levels`: the present one, then the rest.

    A `hull` of None: it could not be placed, so its box is all that is known of it.
    """

    box: Points
    score: float
    points: Points
    hull: Points | None
    seed: int
    levels: tuple[str, ...]
    found: str = "detector"
    similarities: Mapping[str, float] = field(default_factory=dict)
    failures: tuple[str, ...] = ()
    tries: int = 1
    outline: Points | None = None  # [27,2] of its jaw and forehead; None: not seen
    _crop: Pixels | None = None
    _original: Embeddings | None = None
    _output: tuple[Pixels, Embeddings] | None = None
    _region: tuple[str, tuple[int, ...], Region] | None = None
    _made: tuple[str, NDArray[np.uint8], NDArray[np.uint8]] | None = None

    @property
    def level(self) -> str:
        return self.levels[0]

    @property
    def opaque(self) -> bool:
        return self.level == OPAQUE

    @property
    def kept(self) -> bool:
        """Whether it is to stay as it is."""
        return self.level == KEPT

    @property
    def is_drawn(self) -> bool:
        """Whether any of its levels leaves a face within its outline."""
        return not DESTRUCTIVE.issuperset(base(level) for level in self.levels if level != OPAQUE)

    @property
    def longer(self) -> float:
        """The longer side of its box, in pixels."""
        return float(max(self.box[2] - self.box[0], self.box[3] - self.box[1]))

    @property
    def level_seed(self) -> int:
        """Each refinement has a seed of its own."""
        again = refinement(self.level)
        return seed_of("refinement", again, self.seed) if again else self.seed

    def escalate(self, reason: str, to_mask: bool = False) -> None:
        """To the next level, or at once to the last one."""
        self.failures += (f"{self.level}: {reason}",)
        self.levels = (OPAQUE,) if to_mask else self.levels[1:]
        self.tries += 1
        self.similarities = {}

    def region(self, shape: tuple[int, ...]) -> Region:
        """The pixels that its present level replaces in a picture of `shape`."""
        cached = self._region
        if cached is None or cached[:2] != (self.level, shape):
            cached = self._region = (self.level, shape, self._outlined(shape))
        return cached[2]

    def _outlined(self, shape: tuple[int, ...]) -> Region:
        kind = base(self.level)
        if self.opaque or self.hull is None or kind == "pixelate":
            return hard_region(hull_with_box(self.hull, self.box), shape)
        outline = hull_with_oval(self.hull, self.box) if kind in DESTRUCTIVE else self.hull
        return soft_region(outline, shape, FEATHER * native_side(self.points))

    def crop(self, picture: Pixels, verifier: Verifier) -> Pixels:
        """What the judges are shown of it before anything was done; cut once."""
        if self._crop is None:
            self._crop = crop_face(picture, self.points, verifier.side)
        return self._crop

    def original(self, picture: Pixels, verifier: Verifier) -> Embeddings:
        """What the judges see in it before anything was done; asked once."""
        if self._original is None:
            self._original = embed_crop(self.crop(picture, verifier), self.points, verifier)
        return self._original

    def output(self, crop: Pixels, verifier: Verifier) -> Embeddings:
        """What they see in a `crop` of a finished picture at its points; asked once while the very
        same pixels come out, whatever became of its neighbors."""
        cached = self._output
        if cached is None or not np.array_equal(cached[0], crop):
            cached = self._output = (crop, embed_crop(crop, self.points, verifier))
        return cached[1]

    def made(self, crop: Pixels, make: Callable[[Pixels], Pixels]) -> Pixels:
        """`make(crop)`, cached while level and crop stay: a neighbor's escalation costs nothing."""
        cached = self._made
        if cached is None or cached[0] != self.level or not np.array_equal(cached[1], crop):
            cached = self._made = (self.level, crop, make(crop))
        return cached[2]

    def record(self) -> FaceRecord:
        x0, y0, x1, y1 = (round(float(value)) for value in self.box)
        return FaceRecord(
            box=(x0, y0, x1, y1),
            score=round(self.score, 4),
            method=self.level,
            verdict="masked" if self.opaque else KEPT if self.kept else "verified",
            similarities={name: round(value, 4) for name, value in self.similarities.items()},
            failures=self.failures,
            level=self.tries,
            found=self.found,
        )


def embed_face(picture: Pixels, points: Points, verifier: Verifier) -> Embeddings:
    """What the judges see at five points `[5,2]` of a picture; one row each."""
    return embed_crop(crop_face(picture, points, verifier.side), points, verifier)


def embed_crop(crop: Pixels, points: Points, verifier: Verifier) -> Embeddings:
    """The same of a crop that was cut at these points already."""
    inside = apply_affine(invert_affine(crop_to_picture(points, verifier.side)), points)
    return verifier.embed(crop[None], inside[None])


@dataclass(frozen=True)
class Placing:
    """How faces are placed: `landmarks` on crops of `side`; whether they `refine` the points."""

    landmarks: LandmarkNetwork
    side: int
    refine: bool


def place(picture: Pixels, faces: Sequence[Face], placing: Placing) -> None:
    """Find where faces are, exactly; one that cannot be placed can only be masked.

    They are shown to the network together; where that fails, none of them is placed. Where it is
    the detector's points that count and a face is to be destroyed, box and all, it is not asked.
    """
    placed = [face for face in faces if _tried(face, _check) and _tried(face, _enclose)]
    going = [face for face in placed if placing.refine or face.is_drawn]
    detected = {id(face): face.points for face in placed}
    # A detector whose points are to be refined is believed less than landmarks that agree with
    # themselves once the crop is cut at them.
    for near in (FAR, PLAUSIBLE) if placing.refine else (PLAUSIBLE,):
        try:
            pairs = list(zip(going, _landmarks(picture, going, placing), strict=True))
        except Exception as error:
            for face in going:
                _give_up(face, error)
            break
        going = [
            face
            for face, seen in pairs
            if _tried(face, partial(_adopt, seen, placing, near, detected[id(face)]))
        ]
    for face in placed:
        if face.hull is not None:
            _tried(face, _check)


def _adopt(landmarks: Points, placing: Placing, near: float, detected: Points, face: Face) -> bool:
    """Take its outline, and its points if they are to be refined, from landmarks in its crop;
    False where they cannot be those of the face, and an ellipse about its points must do."""
    to_picture = crop_to_picture(face.points, placing.side)
    expected = apply_affine(invert_affine(to_picture), face.points)
    if not plausible(landmarks, expected, placing.side, near):
        face.points, face.outline = detected, None
        face.hull = hull_of_points(face.points)
        return False
    face.hull = apply_affine(to_picture, hull_of_landmarks(landmarks))
    face.outline = apply_affine(to_picture, outline_of_landmarks(landmarks))
    if placing.refine:
        face.points = apply_affine(to_picture, five_points(landmarks))
    return True


def fitted(made: Pixels, face: Face, placing: Placing) -> Pixels:
    """A made crop `uint8 [S,S,3]` whose face fills the outline of the one whose place it takes; as
    it is where the landmarks of either are not to be believed. May be finer than it was."""
    if face.outline is None:
        return made
    landmarks = _seen(made[None], placing)[0]
    to_crop = invert_affine(crop_to_picture(face.points, made.shape[0]))
    if not plausible(landmarks, apply_affine(to_crop, face.points), made.shape[0]):
        return made
    return fit_outline(made, landmarks, apply_affine(to_crop, face.outline))


def _enclose(face: Face) -> bool:
    face.hull = hull_of_points(face.points)
    return True


def _check(face: Face) -> bool:
    check_geometry(face.points, face.box)
    return True


def _tried(face: Face, step: Callable[[Face], bool]) -> bool:
    """What `step` says of a face; one at which it fails is given up."""
    try:
        return step(face)
    except Exception as error:
        _give_up(face, error)
        return False


def _give_up(face: Face, error: Exception) -> None:
    log.debug("face at %s", face.box, exc_info=error)
    face.hull = None
    face.escalate(say(error), to_mask=True)


def check_geometry(points: Points, box: Points) -> None:
    """`ValueError` where five points cannot be those of the face in `box`."""
    if not (np.isfinite(points).all() and np.isfinite(box).all()):
        raise ValueError("its points are not finite")
    side, longer = native_side(points), float(max(box[2] - box[0], box[3] - box[1]))
    middle, room = points.mean(axis=0), 0.25 * longer  # a box may end at the picture's edge
    inside = (box[:2] - room <= middle).all() and (middle <= box[2:] + room).all()
    if not (inside and 0.5 * longer < side < 6.0 * longer):
        raise ValueError("its points do not fit its box")


def _landmarks(picture: Pixels, faces: Sequence[Face], placing: Placing) -> NDArray[np.float64]:
    """`[N,68,2]` in the crops of N faces."""
    if not faces:
        return np.zeros((0, 68, 2))
    return _seen(
        np.stack([crop_face(picture, face.points, placing.side) for face in faces]), placing
    )


def _seen(crops: Pixels, placing: Placing) -> NDArray[np.float64]:
    import torch

    some = [crops[i : i + TOGETHER] for i in range(0, len(crops), TOGETHER)]
    with torch.inference_mode():
        return np.concatenate(
            [placing.landmarks(to_tensor(part)).double().cpu().numpy() for part in some]
        )


def say(error: Any) -> str:
    """An exception in one short line."""
    return " ".join(f"{type(error).__name__} {error}".split())[:160]
