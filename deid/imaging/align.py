"""Pixels in and out of FFHQ-aligned squares. OpenCV's idea of a pixel's place stays in here.

Everywhere else a pixel's center is at integer + 0.5; OpenCV has it at the integer.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from deid.faces.alignment import (
    Points,
    apply_affine,
    crop_to_picture,
    ffhq_square,
    invert_affine,
)
from deid.pixels import Pixels

MAX_CROP = 512
MAX_DRAWN = 1024  # of a face that is drawn, whose generator chooses how fine
MIN_CROP = 32

Window = tuple[int, int, int, int]
"""x0, y0, x1, y1 in whole picture pixels; the end is outside."""


@dataclass(frozen=True, eq=False)
class Square:
    """The FFHQ square of one face at five points `[5,2]` in picture pixels, computed once."""

    points: Points
    _to_picture: dict[int, Points] = field(default_factory=dict, init=False, repr=False)
    _to_crop: dict[int, Points] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def side(self) -> float:
        """Its side in picture pixels: the native side of the face's crop."""
        _, axis = ffhq_square(self.points)
        return 2.0 * float(np.linalg.norm(axis))

    def to_picture(self, size: int) -> Points:
        """The affine `[2,3]` from a crop of `size` to the picture."""
        if size not in self._to_picture:
            self._to_picture[size] = crop_to_picture(self.points, size)
        return self._to_picture[size]

    def to_crop(self, size: int) -> Points:
        """The affine `[2,3]` from the picture to a crop of `size`."""
        if size not in self._to_crop:
            self._to_crop[size] = invert_affine(self.to_picture(size))
        return self._to_crop[size]

    def points_in(self, size: int) -> Points:
        """The five points in a crop of `size`."""
        return apply_affine(self.to_crop(size), self.points)


def crop_side(square: Square, resolution: int | None, most: int = MAX_CROP) -> int:
    """Side to crop at: `resolution`, or native (32 to `most`) for a method that takes any size."""
    if resolution is not None:
        return resolution
    return int(np.clip(round(square.side), MIN_CROP, most))


def crop_face(picture: Pixels, square: Square, size: int) -> Pixels:
    """The FFHQ-aligned `uint8 [size,size,3]` crop of a face; mirrored beyond the picture's edge.

    Where the crop is smaller than the face, it is sampled finer by a whole factor and averaged.
    """
    factor = max(1, math.ceil(square.side / size))
    fine = size * factor
    part, affine = _part(picture, _opencv(square.to_picture(fine)), fine)
    # Four channels, because OpenCV warps them in less than half of what it takes for three.
    out = cv2.warpAffine(
        cv2.cvtColor(part, cv2.COLOR_RGB2RGBA),
        affine,
        (fine, fine),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    if factor > 1:
        out = cv2.resize(out, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(out, cv2.COLOR_RGBA2RGB), dtype=np.uint8)


def _part(
    picture: Pixels, affine: NDArray[np.float64], side: int
) -> tuple[Pixels, NDArray[np.float64]]:
    """What a crop of `side` needs of a picture, and the map into that; all of it where the crop
    reaches beyond, since how it is mirrored depends on all."""
    corners = np.array([[0, 0, 1], [side, 0, 1], [0, side, 1], [side, side, 1]]) @ affine.T
    (x0, y0), (x1, y1) = np.floor(corners.min(0)) - 2, np.ceil(corners.max(0)) + 3
    if not (x0 >= 0 and y0 >= 0 and x1 <= picture.shape[1] and y1 <= picture.shape[0]):
        return picture, affine
    moved = affine.copy()
    moved[:, 2] -= x0, y0
    return picture[int(y0) : int(y1), int(x0) : int(x1)], moved


def place_face(crop: Pixels, square: Square, window: Window, mirror: bool = False) -> Pixels:
    """The inverse: what `crop` looks like in the picture's `window`, `uint8 [h,w,3]`.

    Beyond the crop its border is continued, or the crop mirrored, so that every pixel of the window
    is the method's.
    """
    if square.side < crop.shape[0]:
        smaller = max(1, round(square.side))
        shrunk = cv2.resize(crop, (smaller, smaller), interpolation=cv2.INTER_AREA)
        crop = np.asarray(shrunk, dtype=np.uint8)
    to_crop = square.to_crop(crop.shape[0]).copy()
    x0, y0, x1, y1 = window
    to_crop[:, 2] += to_crop[:, :2] @ np.array([x0, y0], dtype=to_crop.dtype)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    border = cv2.BORDER_REFLECT_101 if mirror else cv2.BORDER_REPLICATE
    placed = cv2.warpAffine(
        crop, _opencv(to_crop), (x1 - x0, y1 - y0), flags=flags, borderMode=border
    )
    return np.asarray(placed, dtype=np.uint8)


def upright(
    field: NDArray[np.float32], square: Square, window: Window, size: int
) -> NDArray[np.float32]:
    """What `field float32 [h,w]` over the picture's `window` looks like in a crop of `size`."""
    to_picture = square.to_picture(size).copy()
    to_picture[:, 2] -= window[:2]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(
            field, _opencv(to_picture), (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE
        )
    )


def from_upright(field: NDArray[np.float32], square: Square, window: Window) -> NDArray[np.float32]:
    """The inverse: of `float32 [size,size]`, over `window`, 0 beyond it."""
    x0, y0, x1, y1 = window
    to_picture = square.to_picture(field.shape[0]).copy()
    to_picture[:, 2] -= x0, y0
    return np.asarray(cv2.warpAffine(field, _opencv(to_picture), (x1 - x0, y1 - y0)))


def _opencv(affine: NDArray[Any]) -> NDArray[np.float64]:
    """The same map between coordinates in which a pixel's center is at its integer index."""
    shifted = np.array(affine, dtype=np.float64)
    shifted[:, 2] += shifted[:, :2].sum(axis=1) * 0.5 - 0.5
    return shifted
