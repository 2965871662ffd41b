"""Where detected faces are, exactly: a hull for each, and finer points, from landmarks."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deid.faces.alignment import Points, apply_affine, five_points
from deid.gate.geometry import Geometry, check_geometry
from deid.imaging.align import Square, crop_face
from deid.imaging.fit import outline_of_landmarks
from deid.imaging.paste import (
    PLAUSIBLE,
    hull_of_landmarks,
    hull_of_points,
    plausible,
)
from deid.pixels import Pixels, to_tensor
from deid.worlds.world import LandmarkNetwork, RegionName

log = logging.getLogger(__name__)

TOGETHER = 32
"""Crops that the landmark network sees at a time."""

FAR = 0.2
"""Share of the side by which landmarks that will be looked at again may miss detected points."""


@dataclass(frozen=True)
class Placing:
    """How faces are placed: `landmarks` on crops of `side`; whether they `refine` the points; in
    which `region` of a face a new one is drawn."""

    landmarks: LandmarkNetwork
    side: int
    refine: bool
    region: RegionName = "head"

    def see(self, crops: Pixels) -> NDArray[np.float64]:
        """The landmarks `[N,68,2]` in `uint8 [N,S,S,3]`."""
        import torch

        some = [crops[i : i + TOGETHER] for i in range(0, len(crops), TOGETHER)]
        with torch.inference_mode():
            return np.concatenate(
                [self.landmarks(to_tensor(part)).double().cpu().numpy() for part in some]
            )


@dataclass(frozen=True)
class Placement:
    """A face's geometry; with an `error` it could not be placed and can only be masked."""

    geometry: Geometry
    error: Exception | None = None


def place(
    picture: Pixels, faces: Sequence[Geometry], drawn: Sequence[bool], placing: Placing
) -> list[Placement]:
    """Find where faces of `uint8 [H,W,3]` are, exactly.

    They are shown to the network together; where that fails, none of them is placed. Where it is
    the detector's points that count and a face is not `drawn` but destroyed, box and all, it is
    not asked.
    """
    placements = [_enclosed(face) for face in faces]
    enclosed = [placement.geometry for placement in placements]
    asked = [
        index
        for index, placement in enumerate(placements)
        if placement.error is None and (placing.refine or drawn[index])
    ]
    # A detector whose points are to be refined is believed less than landmarks that agree with
    # themselves once the crop is cut at them.
    for near in (FAR, PLAUSIBLE) if placing.refine else (PLAUSIBLE,):
        try:
            squares = [placements[index].geometry.square for index in asked]
            pairs = list(zip(asked, _landmarks(picture, squares, placing), strict=True))
        except Exception as error:
            for index in asked:
                placements[index] = _given_up(placements[index].geometry, error)
            break
        asked = []
        for index, seen in pairs:
            believed = _refined(placements[index].geometry, seen, placing, near)
            placements[index] = believed or Placement(enclosed[index])
            if believed and believed.error is None:
                asked.append(index)
    return [one if one.error is not None else _checked(one.geometry) for one in placements]


def _enclosed(face: Geometry) -> Placement:
    """With the hull of a usual face about its points."""
    try:
        check_geometry(face)
        return Placement(replace(face, hull=hull_of_points(face.square)))
    except Exception as error:
        return _given_up(face, error)


def _refined(face: Geometry, landmarks: Points, placing: Placing, near: float) -> Placement | None:
    """With its outline, and its points if they are to be refined, from landmarks in its crop; None
    where they cannot be those of the face, and an ellipse about its detected points must do."""
    try:
        square, side = face.square, placing.side
        if not plausible(landmarks, square.points_in(side), side, near):
            return None
        to_picture = square.to_picture(side)
        hull = apply_affine(to_picture, hull_of_landmarks(landmarks))
        outline = apply_affine(to_picture, outline_of_landmarks(landmarks))
        own = apply_affine(to_picture, landmarks) if placing.region == "face" else None
        if placing.refine:
            square = Square(apply_affine(to_picture, five_points(landmarks)))
        return Placement(Geometry(face.box, square, hull, outline, own))
    except Exception as error:
        return _given_up(face, error)


def _checked(face: Geometry) -> Placement:
    try:
        check_geometry(face)
        return Placement(face)
    except Exception as error:
        return _given_up(face, error)


def _given_up(face: Geometry, error: Exception) -> Placement:
    log.debug("face at %s", face.box, exc_info=error)
    return Placement(replace(face, hull=None), error)


def _landmarks(picture: Pixels, squares: Sequence[Square], placing: Placing) -> NDArray[np.float64]:
    """`[N,68,2]` in the crops of N faces."""
    if not squares:
        return np.zeros((0, 68, 2))
    return placing.see(np.stack([crop_face(picture, square, placing.side) for square in squares]))
