"""Which pixels of a picture belong to a face, and how new ones take their place.

A region is 1 over the whole face and falls to 0 only outside it: softness never lets a pixel of
the original face shine through. Beyond the region the picture keeps its bytes. Where a made face
goes from brow to chin (`paste_face`), that holds of the region's core only: around it, what looks
like hair hanging over the face stays (`front`). Judges see either in the finished file.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from deid.faces.alignment import Points, apply_affine, five_points
from deid.imaging.align import Square, Window, place_face
from deid.imaging.blend import Place, blend_in, close_seam, match_contrast, match_light
from deid.imaging.covered import is_covered
from deid.imaging.fit import outline_of_landmarks
from deid.imaging.front import Front, below_eyes
from deid.imaging.skin import find_skin
from deid.imaging.texture import match_texture
from deid.pixels import Pixels

OPAQUE_GRAY = 96
FILL_TOLERANCE = 10.0  # levels of 256 by which an encoder may miss it, in the mean
FEATHER = 0.03  # of the FFHQ square's side
JAW_FEATHER = 0.025  # of it, where a face ends at its jaw
CORE = 0.72  # of the way to the jaw, nothing of the old picture may stay
BROW = 0.03  # of the height from nose tip to brows: nor so far above their landmarks
CORNER = 0.07  # of the square's side: the radius of that part's corners above the eyes
FOREHEAD_FEATHER = 0.09  # of it, where a face that ends above its brows goes on in the same skin
RAISED = 0.35 * np.array(
    [0.2, 0.6, 0.9, 1.0, 1.0, 1.0, 1.0, 0.9, 0.6, 0.2]
)  # of the height from nose tip to brows: how far above its landmarks a brow is covered
ROUNDNESS = 3.0  # exponent of a superellipse: 2 is an ellipse, a rectangle is beyond all
# Middle, across and down of ellipses (`_ellipse`):
CHEEKS, BRIDGE, FOREHEAD = (0.61, 0.16, 0.09), (0.465, 0.03, 0.02), (0.38, 0.12, 0.035)
BARE = 0.57, 0.15, 0.06  # of nose and cheeks what no beard covers
PLAUSIBLE = 0.06  # landmarks may miss the detector's five points by this share of the side


@dataclass(frozen=True)
class Region:
    """Where a face is replaced: `alpha float32 [h,w]` in [0, 1] over `window` of the picture;
    `core [h,w]`, 0 or 1: where nothing of the old picture may stay, if that is only a part."""

    window: Window
    alpha: NDArray[np.float32]
    core: NDArray[np.uint8] | None = None


def plausible(landmarks: Points, points: Points, size: int, near: float = PLAUSIBLE) -> bool:
    """Whether 68 landmarks `[68,2]` agree with five detected points in one crop of side `size`."""
    if not np.isfinite(landmarks).all():
        return False
    miss = np.linalg.norm(five_points(landmarks) - points, axis=-1).mean()
    return bool(miss < near * size)


def hull_of_landmarks(landmarks: Points) -> Points:
    """Convex hull `[M,2]` of 68 landmarks of an upright crop, carried up over the forehead."""
    everything = np.concatenate([landmarks, outline_of_landmarks(landmarks)]).astype(np.float32)
    return np.asarray(cv2.convexHull(everything)[:, 0])


def hull_of_points(square: Square) -> Points:
    """An ellipse `[M,2]` over a usual face, in picture pixels, from its five points."""
    return _ellipse(square, middle=0.565, across=0.32, down=0.39)


def _ellipse(square: Square, middle: float, across: float, down: float) -> Points:
    """Shares of the FFHQ square, whose eyes are at 0.47 and mouth at 0.75 of its height."""
    angle = np.linspace(0.0, 2 * np.pi, 48, endpoint=False)
    unit = np.stack([0.5 + across * np.cos(angle), middle + down * np.sin(angle)], axis=-1)
    return apply_affine(square.to_picture(1), unit)


def _convex(points: Points) -> Points:
    return np.asarray(cv2.convexHull(points.astype(np.float32))[:, 0], np.float64)


def soft_region(hull: Points, shape: tuple[int, ...], feather: float) -> Region:
    """1 over `hull` `[M,2]`, falling smoothly to 0 within `feather` pixels outside it."""
    window = window_of(hull, shape, int(np.ceil(feather)) + 3)
    return softened(hull, window, max(feather, 1e-3))


def face_region(landmarks: Points, square: Square, shape: tuple[int, ...]) -> Region:
    """1 from just over the brows to the chin of 68 landmarks `[68,2]`, falling to 0 outside: within
    a narrow rim at the jaw, over more of the forehead, where the skin goes on. Its `core` is the
    part in which nothing of the old face may stay."""
    jaw, forehead = JAW_FEATHER * square.side, FOREHEAD_FEATHER * square.side
    upright = apply_affine(square.to_crop(1), landmarks)
    raised = upright[17:27].copy()
    up = upright[30, 1] - raised[:, 1].mean()
    raised[:, 1] -= RAISED * up
    brows = upright[18:26] - [0.0, BROW * up]  # hair falls over their ends
    middle = upright[27:36].mean(axis=0)
    inner = np.concatenate(
        [upright[18:26], upright[27:], brows, middle + CORE * (upright[:17] - middle)]
    )
    hull, core = (
        apply_affine(square.to_picture(1), _convex(part))
        for part in (np.concatenate([upright, raised]), inner)
    )
    window = window_of(hull, shape, int(np.ceil(forehead)) + 3)
    below = below_eyes(square, window)
    feather = np.maximum(below * jaw + (1.0 - below) * forehead, 1e-3)
    inner = filled(core, window)
    inner = np.where(below < 0.5, _rounded(inner, CORNER * square.side), inner)
    return replace(softened(hull, window, feather), core=inner)


def _rounded(mask: NDArray[np.uint8], radius: float) -> NDArray[np.uint8]:
    """Without what of a mask `[h,w]` no disk of `radius` pixels reaches: its corners."""
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    radius = min(radius, 0.5 * float(depth.max()))
    inner = (depth > radius).astype(np.uint8)
    return (cv2.distanceTransform(1 - inner, cv2.DIST_L2, 5) <= radius).astype(np.uint8)


def softened(hull: Points, window: Window, feather: float | NDArray[np.float32]) -> Region:
    """1 over `hull`, falling to 0 over `feather` pixels, which may differ from place to place."""
    whole = filled(hull, window)
    wider = cv2.dilate(whole, np.ones((3, 3), np.uint8))
    distance = cv2.distanceTransform(1 - wider, cv2.DIST_L2, 5)
    fall = np.clip(1.0 - distance / feather, 0.0, 1.0)
    # Averaged with its neighbors, for the outline was drawn in whole pixels: stairs would show.
    alpha = cv2.blur(fall * fall * (3.0 - 2.0 * fall), (3, 3), borderType=cv2.BORDER_REPLICATE)
    return Region(window, np.asarray(np.maximum(alpha, whole), dtype=np.float32))


def hull_with_box(hull: Points | None, box: Points) -> Points:
    """Convex hull `[M,2]` of a face's hull, if known, and its box `[4]`, a tenth larger."""
    x0, y0, x1, y1 = (float(value) for value in box)
    dx, dy = 0.05 * (x1 - x0) + 1, 0.05 * (y1 - y0) + 1
    corners = np.array(
        [[x0 - dx, y0 - dy], [x1 + dx, y0 - dy], [x1 + dx, y1 + dy], [x0 - dx, y1 + dy]]
    )
    everything = corners if hull is None else np.concatenate([corners, hull])
    return np.asarray(cv2.convexHull(everything.astype(np.float32))[:, 0])


def hull_with_oval(hull: Points, box: Points) -> Points:
    """The same with the larger box's corners, where no face is, rounded off: a superellipse."""
    x0, y0, x1, y1 = (float(value) for value in box)
    half = np.array([0.55 * (x1 - x0) + 1, 0.55 * (y1 - y0) + 1])
    angle = np.linspace(0.0, 2 * np.pi, 96, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    unit = np.sign(circle) * np.abs(circle) ** (2.0 / ROUNDNESS)
    oval = np.array([x0 + x1, y0 + y1]) / 2 + unit * half
    return np.asarray(cv2.convexHull(np.concatenate([oval, hull]).astype(np.float32))[:, 0])


def hull_of_box(box: Points) -> Points:
    """An ellipse `[M,2]` inscribed in a box `[4]`."""
    x0, y0, x1, y1 = (float(value) for value in box)
    angle = np.linspace(0.0, 2 * np.pi, 48, endpoint=False)
    unit = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    half = np.array([x1 - x0, y1 - y0]) / 2
    return np.asarray(np.array([x0 + x1, y0 + y1]) / 2 + unit * half)


def hard_region(hull: Points, shape: tuple[int, ...]) -> Region:
    """1 over `hull` `[M,2]`, 0 elsewhere."""
    window = window_of(hull, shape, margin=2)
    return Region(window, filled(hull, window).astype(np.float32))


def paste(
    canvas: Pixels,
    crop: Pixels,
    square: Square,
    region: Region,
    match: bool,
    around: bool = False,
) -> None:
    """Blend an aligned `crop` into `canvas` in place; `match` brings light and color to what they
    were in the face, and to the colors around it at its edge. A region that goes `around` the head
    takes less of those all along its edge, as a jaw does: new hair may end where a sky was."""
    x0, y0, x1, y1 = region.window
    old = canvas[y0:y1, x0:x1]
    new = place_face(crop, square, region.window, mirror=around)
    if match:
        skin = filled(_ellipse(square, middle=0.62, across=0.17, down=0.2), region.window)
        place = Place(
            old.astype(np.float32),
            region.alpha,
            skin.astype(np.float32),
            np.ones_like(region.alpha) if around else below_eyes(square, region.window),
            square.side,
        )
        lit = blend_in(new.astype(np.float32), place)
        new = np.rint(lit).clip(0, 255).astype(np.uint8)
    # Exact where alpha is 0 or 1: all that OpenCV adds is 1e-5 in a divisor, for weights of none.
    canvas[y0:y1, x0:x1] = cv2.blendLinear(old, new, 1.0 - region.alpha, region.alpha)


def paste_face(canvas: Pixels, crop: Pixels, square: Square, region: Region) -> Region:
    """Blend a crop of skin (`deid.imaging.skin`) into a region that ends above the brows, in place,
    matched to the skin, the grain and the sharpness of its picture; the region with the `alpha`
    that was used. `ValueError` for a region without a core."""
    if region.core is None:
        raise ValueError("a face is pasted into a region with a core")
    x0, y0, x1, y1 = region.window
    old = canvas[y0:y1, x0:x1].astype(np.float32)
    new = place_face(crop, square, region.window).astype(np.float32)
    parts = (CHEEKS, BRIDGE, FOREHEAD, (0.62, 0.17, 0.2))
    cheeks, bridge, forehead, skin = (filled(_ellipse(square, *p), region.window) for p in parts)
    if covered := is_covered(old, cheeks, bridge, forehead):
        cheeks = skin = forehead
    found, nowhere = find_skin(old, cheeks.astype(np.float32)), np.zeros_like(region.alpha)
    shaded, alpha = found.shaded if found else old, region.alpha
    place = Place(shaded, alpha, skin.astype(np.float32), nowhere, square.side)
    lit = match_light(new, place)
    if not covered:
        bare = filled(_ellipse(square, *BARE), region.window).astype(np.float32)
        lit = match_contrast(lit, old, bare, square.side)
    seen = find_skin(lit, cheeks.astype(np.float32))
    if found and not covered:
        front = Front(old, found, alpha, region.core, square, region.window)
        alpha, whole = front.mask(seen)
        place = replace(place, alpha=whole.astype(np.float32))
    lit = close_seam(lit, place, seen.shaded if seen else None)
    lit = match_texture(lit, old, region.core.astype(np.float32), cheeks.astype(np.float32))
    mixed = old + alpha[..., None] * (lit - old)
    canvas[y0:y1, x0:x1] = np.rint(mixed).clip(0, 255).astype(np.uint8)
    return Region(region.window, alpha.astype(np.float32))


def fill(canvas: Pixels, region: Region) -> None:
    """Make a region of `canvas` one opaque gray, in place."""
    x0, y0, x1, y1 = region.window
    canvas[y0:y1, x0:x1][region.alpha > 0] = OPAQUE_GRAY


def is_filled(canvas: Pixels, region: Region) -> bool:
    """Whether nothing but the opaque gray is left in a region, which must not be empty."""
    x0, y0, x1, y1 = region.window
    inside = canvas[y0:y1, x0:x1][region.alpha > 0]
    return len(inside) > 0 and bool((inside == OPAQUE_GRAY).all())


def looks_filled(decoded: Pixels, region: Region) -> bool:
    """Whether a region that was filled is still one plain gray after a lossy encoder.

    Its rim, where an encoder mixes it with its surroundings, is left out.
    """
    x0, y0, x1, y1 = region.window
    whole = (region.alpha > 0).astype(np.uint8)
    rim = min(8, max(1, min(whole.shape) // 6))
    inner = cv2.erode(whole, np.ones((2 * rim + 1,) * 2, np.uint8), borderValue=1) > 0
    inside = decoded[y0:y1, x0:x1][inner if inner.any() else whole > 0].astype(np.float32)
    if len(inside) == 0:
        return False
    shown = inside[inside.any(axis=1)]  # decoding blackens what is wholly transparent
    return len(shown) == 0 or bool(np.abs(shown - OPAQUE_GRAY).mean() <= FILL_TOLERANCE)


def coverage(outline: Points, regions: Sequence[Region], shape: tuple[int, ...]) -> float:
    """Share of the pixels in an outline `[M,2]`, inside the picture, that any region replaces."""
    try:
        x0, y0, x1, y1 = window = window_of(outline, shape, margin=0)
    except ValueError:
        return 1.0  # outside the picture there is nothing to cover
    inside = filled(outline, window) > 0
    covered = np.zeros_like(inside)
    for region in regions:
        u0, v0, u1, v1 = region.window
        left, top, right, bottom = max(x0, u0), max(y0, v0), min(x1, u1), min(y1, v1)
        if left < right and top < bottom:
            part = region.alpha[top - v0 : bottom - v0, left - u0 : right - u0] > 0.5
            covered[top - y0 : bottom - y0, left - x0 : right - x0] |= part
    return float(covered[inside].mean()) if inside.any() else 1.0


def window_of(outline: Points, shape: tuple[int, ...], margin: int) -> Window:
    """The part of a picture about an outline `[M,2]`; `ValueError` where there is none."""
    limit = np.array([shape[1], shape[0]])
    low = np.clip(np.floor(outline.min(axis=0)).astype(int) - margin, 0, limit)
    high = np.clip(np.ceil(outline.max(axis=0)).astype(int) + margin, 0, limit)
    if (high <= low).any():
        raise ValueError("a face outside its picture")
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def filled(outline: Points, window: Window) -> NDArray[np.uint8]:
    """1 in every pixel of `window` that a convex outline touches, 0 elsewhere."""
    x0, y0, x1, y1 = window
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    # OpenCV has pixel centers at integers, and takes sixteenths of a pixel as whole numbers.
    local = np.rint((np.asarray(outline, np.float64) - [x0 + 0.5, y0 + 0.5]) * 16)
    cv2.fillConvexPoly(mask, local.astype(np.int32), 1, lineType=cv2.LINE_8, shift=4)
    return np.asarray(cv2.dilate(mask, np.ones((3, 3), np.uint8)), dtype=np.uint8)
