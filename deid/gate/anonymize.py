"""New pixels for one face: its crop, anonymized at the face's level."""

import math

import numpy as np

from deid.anonymize import Anonymizer
from deid.anonymize.base import finite
from deid.faces.alignment import apply_affine
from deid.gate.face import Face
from deid.gate.fallback import GENERATIVE, RESHAPED, base
from deid.gate.geometry import Geometry
from deid.gate.place import Placing
from deid.imaging.align import MAX_CROP, MAX_DRAWN, Square, crop_face, crop_side
from deid.imaging.fit import fit_outline
from deid.imaging.fit_landmarks import fit_landmarks
from deid.imaging.paste import plausible
from deid.imaging.skin import skin_only
from deid.pixels import Pixels, to_pixels, to_tensor


def anonymize(canvas: Pixels, face: Face, anonymizer: Anonymizer, placing: Placing) -> Pixels:
    """The aligned crop `uint8 [S,S,3]` of what takes the place of a face of `canvas`."""

    def make(crop: Pixels) -> Pixels:
        output = anonymizer(to_tensor(crop), [face.level_seed])
        if output.shape != (1, 3, *crop.shape[:2]) or not finite(output):
            raise FloatingPointError("its output is not a picture")
        made = np.asarray(to_pixels(output)[0])
        if draws_skin(face):
            return bare(made, face.geometry, placing)
        if face.geometry.is_portrait:
            return made
        return fitted(made, face.geometry, placing) if base(face.level) in RESHAPED else made

    square, drawn = face.geometry.square, base(face.level) in GENERATIVE
    return face.made(crop_face(canvas, square, _side(square, anonymizer, drawn)), make)


def draws_skin(face: Face) -> bool:
    """Whether its level draws a new face that ends above its brows."""
    return face.geometry.landmarks is not None and base(face.level) in GENERATIVE


def bare(made: Pixels, face: Geometry, placing: Placing) -> Pixels:
    """A made crop `uint8 [S,S,3]` whose face has the pose and expression of the one whose place it
    takes, without hair and background; as it is where its landmarks are not to be believed."""
    landmarks, size = placing.see(made[None])[0], made.shape[0]
    if not plausible(landmarks, face.square.points_in(size), size):
        return made
    if face.landmarks is not None:
        wanted = apply_affine(face.square.to_crop(size), face.landmarks)
        made, landmarks = fit_landmarks(made, landmarks, wanted)
    return skin_only(made, landmarks)


def fitted(made: Pixels, face: Geometry, placing: Placing) -> Pixels:
    """A made crop `uint8 [S,S,3]` whose face fills the outline of the one whose place it takes; as
    it is where the landmarks of either are not to be believed. May be finer than it was."""
    if face.outline is None:
        return made
    landmarks, size = placing.see(made[None])[0], made.shape[0]
    if not plausible(landmarks, face.square.points_in(size), size):
        return made
    return fit_outline(made, landmarks, apply_affine(face.square.to_crop(size), face.outline))


def _side(square: Square, anonymizer: Anonymizer, drawn: bool) -> int:
    """Side to crop at: where less is enough, the face's own by a whole number."""
    most = MAX_DRAWN if drawn else MAX_CROP
    side, enough = crop_side(square, anonymizer.resolution, most), anonymizer.enough
    if enough is None or min(side, square.side) <= enough:
        return side
    return math.ceil(square.side / (square.side // enough))
