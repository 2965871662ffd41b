"""How a picture is shown to a network, and where what it answers lies in the picture.

Networks know upright faces of a few octaves in size. So a picture is shown at several levels, each
half the one before, rotated by multiples of 45 degrees, with a border so that a face at the frame
does not end at the edge of sight, and in tiles that overlap by more than the faces sought there.

What is shown is bounded whatever the picture: see `ROTATE_BY_45`, `ROTATE_BY_90`, `ENLARGE`.
Coordinates have pixel centers at integers + 0.5; `picture = affine @ (x, y, 1)`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from deid.faces.alignment import apply_affine, invert_affine
from deid.faces.faces import Faces
from deid.pixels import Pixels

Affine = NDArray[np.float64]

ENLARGED = 2.0  # of 20 pixels a network sees too little; twice as many make it sure
LARGE = 256  # a picture is enlarged to at least so many pixels, by at most TINY
TINY = 8.0
SMALL = 160  # no level below this longer side
ROTATE_BY_45 = 2_000_000  # pixels of a level up to which it is rotated by 45 degrees too
ROTATE_BY_90 = 24_000_000  # and by 90
ENLARGE = 32_000_000  # pixels up to which an enlarged level is made
TILE, OVERLAP = 2112, 192  # a larger face is whole in a tile of the next level; and a picture of
# ROTATE_BY_45 pixels, rotated so, in one: else its rotations are shown in four tiles, then again
BORDER = 32
GRAY = 114

COVER = 1.4  # a face's box is its inner part; hair and outline are around it
CLOSE, AROUND = 128, 256  # pixels of a face shown alone, and of what is shown with it

QUARTERS = (0, 90, 180, 270)
EIGHTHS = (0, 90, 180, 270, 45, 135, 225, 315)


@dataclass(frozen=True)
class Level:
    """One size at which a picture is shown, and the rotations, in degrees clockwise."""

    scale: float
    rotations: tuple[int, ...]


@dataclass(frozen=True)
class View:
    """What a network is shown: `uint8 [H,W,3]`, and the map from its pixels to the picture's."""

    pixels: Pixels
    to_picture: Affine

    @property
    def oblique(self) -> bool:
        """Whether the picture's axes are not the view's; boxes of such a view are too large."""
        return bool((self.to_picture[:, :2] != 0).all())

    def to_faces(self, found: Faces) -> Faces:
        """Faces found in this view, in the picture's pixels; five points keep their order.

        A rotated box is taken for the ellipse in it, which is what a face fills: its upright box.
        """
        if not len(found):
            return Faces.none()
        linear = self.to_picture[:, :2]
        middle = apply_affine(self.to_picture, (found.boxes[:, :2] + found.boxes[:, 2:]) / 2.0)
        half = (found.boxes[:, 2:] - found.boxes[:, :2]) / 2.0
        reach = np.sqrt(((linear[None] * half[:, None, :]) ** 2).sum(2))
        points = apply_affine(self.to_picture, found.points.reshape(-1, 2).astype(np.float64))
        return Faces(
            np.concatenate([middle - reach, middle + reach], 1).astype(np.float32),
            found.scores,
            points.reshape(-1, 5, 2).astype(np.float32),
        )


def multi_scale_levels(
    height: int, width: int, scale_invariant: bool, rotation_invariant: bool
) -> list[Level]:
    """The levels of a picture, largest first.

    A scale-invariant network needs each rotation only until a level so rotated has been whole in
    one tile; a rotation-invariant one is shown the picture upright only. Enlarged, one with both a
    pyramid and all rotations (MTCNN) finds nothing more (`benchmarks/detection.py`).
    """
    longer, area = max(height, width), height * width
    enlarged = ENLARGED if rotation_invariant or not scale_invariant else 1.0
    scale = min(TINY, max(enlarged, LARGE / longer))
    if scale**2 * area > ENLARGE:
        scale = 1.0
    levels: list[Level] = []
    seen: set[int] = set()
    while not levels or scale * longer >= SMALL:
        rotations = (0,) if rotation_invariant else _rotations(scale * height, scale * width, scale)
        rotations = tuple(angle for angle in rotations if angle not in seen)
        if rotations:
            levels.append(Level(scale, rotations))
        if scale_invariant:
            seen.update(a for a in rotations if _in_one_tile(height, width, scale, a))
        scale /= 2
    return levels


def _in_one_tile(height: int, width: int, scale: float, rotation: int) -> bool:
    h, w = scale * height + 2 * BORDER, scale * width + 2 * BORDER
    return (max(h, w) if rotation % 90 == 0 else (h + w) / np.sqrt(2)) <= TILE


def _rotations(height: float, width: float, scale: float) -> tuple[int, ...]:
    # Rotated by 45 degrees, a picture lies in a square whose area is half its outline's square: at
    # least twice its own. So what is enlarged to see more is rotated by 90 degrees only.
    small = scale <= 1 or max(height, width) <= 2 * LARGE
    if small and (height + width) ** 2 / 4 <= ROTATE_BY_45:
        return EIGHTHS
    return QUARTERS if height * width <= ROTATE_BY_90 else (0,)


def multi_scale_views(
    picture: Pixels, scale_invariant: bool, rotation_invariant: bool = False
) -> Iterator[View]:
    """Every view of `uint8 [H,W,3]` for a detector that may miss no face."""
    for level in multi_scale_levels(
        picture.shape[0], picture.shape[1], scale_invariant, rotation_invariant
    ):
        pixels, to_picture = resized(picture, level.scale)
        bordered = cv2.copyMakeBorder(
            pixels, *(BORDER,) * 4, cv2.BORDER_CONSTANT, value=(GRAY, GRAY, GRAY)
        )
        sheet = View(np.asarray(bordered, np.uint8), _moved(to_picture, -BORDER, -BORDER))
        for rotation in level.rotations:
            yield from tiles(rotated(sheet, rotation))


def single_view(picture: Pixels, side: int) -> View:
    """The whole picture once, its longer side `side` pixels."""
    return View(*resized(picture, side / max(picture.shape[:2])))


def close_up_view(
    picture: Pixels,
    box: NDArray[np.float32],
    points: NDArray[np.float32],
    hidden: NDArray[np.float32] | None = None,
) -> View | None:
    """One face alone, `box` `[4]` and five `points` `[5,2]`: large, its eyes level, gray around.

    What lies in the boxes `hidden` `[M,4]` is covered by its mean color. None where box and points
    say nothing about a place in the picture.
    """
    side = float(np.sqrt((box[2:] - box[:2]).clip(0).prod()))
    middle, reach = (box[:2] + box[2:]) / 2.0, 0.75 * AROUND / CLOSE * side
    low = np.floor(middle - reach).clip(0).astype(int)
    high = np.ceil(middle + reach).clip(0, picture.shape[1::-1]).astype(int)
    if not side or (high <= low).any():
        return None
    piece = picture[low[1] : high[1], low[0] : high[0]]
    if hidden is not None and len(hidden):
        piece = covered(piece, hidden - np.tile(low, 2))
    scale = CLOSE / side
    sheet = View(*resized(piece, min(scale, 1.0)))  # averaged here, for a warp only interpolates
    across = (points[1] - points[0]).astype(np.float64)
    angle = float(np.arctan2(across[1], across[0]))
    cos, sin = np.cos(angle), np.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]]) / scale
    corner = middle - linear @ np.full(2, AROUND / 2.0)
    to_picture = np.concatenate([linear, corner[:, None]], 1)
    inside = to_picture - np.array([[0, 0, low[0]], [0, 0, low[1]]])
    to_sheet = _after(np.asarray(invert_affine(sheet.to_picture)), inside)
    to_sheet[:, 2] += to_sheet[:, :2].sum(1) * 0.5 - 0.5  # OpenCV has pixel centers at integers
    pixels = cv2.warpAffine(
        sheet.pixels,
        to_sheet,
        (AROUND, AROUND),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderValue=(GRAY, GRAY, GRAY),
    )
    return View(np.asarray(pixels, np.uint8), to_picture)


def covered(picture: Pixels, boxes: NDArray[np.float32]) -> Pixels:
    """A copy in which each of `[M,4]`, `COVER` times as large, is its mean color."""
    copy = picture.copy()
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, COVER * (boxes[:, 2:] - boxes[:, :2]) / 2
    corners = np.concatenate([middle - half, middle + half], 1).round().clip(0).astype(int)
    for x0, y0, x1, y1 in corners:
        part = copy[y0:y1, x0:x1]
        if part.size:
            part[:] = picture[y0:y1, x0:x1].mean((0, 1))
    return copy


def resized(picture: Pixels, scale: float) -> tuple[Pixels, Affine]:
    """A picture at about `scale`, and the exact map back."""
    height, width = picture.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = picture if scale == 1 else cv2.resize(picture, size, interpolation=method)
    to_picture = np.array([[width / size[0], 0.0, 0.0], [0.0, height / size[1], 0.0]])
    return np.asarray(small, np.uint8), to_picture


def rotated(sheet: View, degrees: int) -> View:
    """A view rotated clockwise; by quarters exactly, else over gray."""
    height, width = sheet.pixels.shape[:2]
    angle = np.deg2rad(degrees)
    # Rounded, so that quarters are exact.
    cos, sin = round(float(np.cos(angle)), 12), round(float(np.sin(angle)), 12)
    size = np.array([abs(cos) * width + abs(sin) * height, abs(sin) * width + abs(cos) * height])
    size = np.ceil(size.round(6))
    linear = np.array([[cos, -sin], [sin, cos]])
    shift = size / 2 - linear @ (np.array([width, height]) / 2)
    affine = np.concatenate([linear, shift[:, None]], 1)
    if degrees % 90 == 0:
        pixels = np.rot90(sheet.pixels, -(degrees // 90))
    else:
        opencv = affine.copy()
        opencv[:, 2] += linear.sum(1) * 0.5 - 0.5  # there a pixel's center is at the integer
        warped = cv2.warpAffine(
            sheet.pixels, opencv, (int(size[0]), int(size[1])), borderValue=(GRAY, GRAY, GRAY)
        )
        pixels = np.asarray(warped, np.uint8)
    return View(
        np.asarray(pixels, np.uint8),
        _after(sheet.to_picture, np.asarray(invert_affine(affine), np.float64)),
    )


def tiles(sheet: View) -> Iterator[View]:
    """A view in pieces of at most `TILE` pixels a side that overlap by at least `OVERLAP`."""
    for y0, y1 in _spans(sheet.pixels.shape[0]):
        for x0, x1 in _spans(sheet.pixels.shape[1]):
            yield View(sheet.pixels[y0:y1, x0:x1], _moved(sheet.to_picture, x0, y0))


def _spans(length: int) -> list[tuple[int, int]]:
    if length <= TILE:
        return [(0, length)]
    count = -(-(length - OVERLAP) // (TILE - OVERLAP))
    starts = np.linspace(0, length - TILE, count).round().astype(int)
    return [(int(start), int(start) + TILE) for start in starts]


def _moved(affine: Affine, x: float, y: float) -> Affine:
    """The map of a piece whose corner is at (x, y) of the whole."""
    moved = affine.copy()
    moved[:, 2] += affine[:, :2] @ np.array([x, y], np.float64)
    return moved


def _after(outer: Affine, inner: Affine) -> Affine:
    """First `inner`, then `outer`."""
    linear = outer[:, :2] @ inner[:, :2]
    shift = outer[:, :2] @ inner[:, 2] + outer[:, 2]
    return np.concatenate([linear, shift[:, None]], 1)
