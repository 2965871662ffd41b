"""Which pixels about a face are its skin, and a made face of which nothing but skin goes along.

A generator draws hair, a hat and a background of its own around a face. Where they reach into the
place that the face goes to, its skin is carried on instead.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from deid.faces.alignment import Points
from deid.imaging.blend import Picture, fit_field
from deid.pixels import Pixels

GRID = 192  # longer side of the grid on which skin is told from what is not
DARKER, LIGHTER = 0.3, 0.6  # weight of lightness beside color: a cheek in the shade is skin
IN_LIGHT = 0.7  # that of a forehead that was drawn, where what is darker is hair
SURELY, HARDLY = 9.0, 18.0  # distances in Lab from the skin's color at which it is, and is not
SHADE = 0.85  # of the skin's lightness: the least that hair over it leaves
COLORFUL = 4.0  # of chroma in Lab, above the skin's, at which it is no beard
BLURRED, EDGE_WIDTH = 0.005, 0.03  # of the FFHQ square's side: an edge of hair is so broad
RIM = 0.02  # of it: how far beside a part its edge is looked for
EDGE = 17.0  # difference in Lab over `EDGE_WIDTH` below which it is none
INWARDS = 0.93  # of the way from its middle to its jaw, a made face is surely its own
ABOVE = 0.12  # of the height from nose tip to brows: how far a brow reaches above its landmarks
OVER, OUTER = 0.5, 0.25  # of that height, and of a brow's length: how far hair over it is followed
RAISED = np.array([0.0, 0.5, 1.0, 1.0, 1.0])  # of that, from a brow's outer end, where hair begins


@dataclass(frozen=True)
class Skin:
    """Of a picture `[h,w]`: `likeness float32 [h,w]`, 1 where it has the color of its skin under a
    light that falls off evenly, 0 where it is hair or background; `shaded float32 [h,w,3]` in
    levels of 256, its low frequencies with the skin in its own shade where there is none; `pale
    [h,w]`, 1 where it is no more colorful than the skin; `tone [h,w,3]`, the skin's color in Lab
    under that light."""

    likeness: Picture
    shaded: Picture
    pale: Picture
    tone: Picture


def find_skin(picture: Picture, patch: Picture) -> Skin | None:
    """The skin of `float32 [h,w,3]` in levels of 256, some of which is where `patch [h,w]` is 1;
    None where that is too little to tell."""
    height, width = patch.shape
    scale = min(1.0, GRID / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    chosen = cv2.resize(patch, size, interpolation=cv2.INTER_AREA) > 0.5
    if chosen.sum() < 12:
        return None
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).clip(0, 255) / 255
    lab = np.asarray(cv2.cvtColor(small.astype(np.float32), cv2.COLOR_RGB2LAB), np.float32)
    tone = fit_field(lab, chosen).astype(np.float32)
    far, usual = from_skin(lab, tone), tone.copy()
    likeness = _likeness(far)[..., None]
    shade = np.clip(lab[..., :1] / np.maximum(usual[..., :1], 1.0), SHADE, 1.0)
    usual[..., :1] *= shade
    dark = cv2.cvtColor(usual, cv2.COLOR_LAB2RGB)
    chroma, most = np.linalg.norm(lab[..., 1:], axis=-1), np.linalg.norm(usual[..., 1:], axis=-1)
    shaded, pale = 255 * (likeness * small + (1 - likeness) * dark), chroma < most + COLORFUL
    fields = (field.astype(np.float32) for field in (likeness, shaded, pale, tone))
    return Skin(*(_enlarged(field, (width, height)) for field in fields))


def from_skin(lab: Picture, tone: Picture, darker: float = DARKER) -> Picture:
    """How far each pixel `[h,w]` of `lab [h,w,3]` is from the skin's `tone` there."""
    off = lab - tone
    off[..., 0] *= np.where(off[..., 0] < 0, darker, LIGHTER)
    return np.asarray(np.linalg.norm(off, axis=-1))


def _likeness(far: Picture) -> Picture:
    return np.asarray(np.clip((HARDLY - far) / (HARDLY - SURELY), 0.0, 1.0))


def skin_only(crop: Pixels, landmarks: Points) -> Pixels:
    """`uint8 [S,S,3]` with the face at `landmarks [68,2]` as it is, and around it, in place of all
    that is not skin, the skin at its edge carried on."""
    side = crop.shape[0]
    size = min(side, GRID)
    small = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)
    own, skin = _own(small, landmarks * (size / side))
    around = _enlarged(_carried_on(small, skin), (side, side))
    soft = np.minimum(own, cv2.GaussianBlur(own, (0, 0), 0.01 * size))
    soft = _enlarged(soft, (side, side))[..., None]
    return np.rint(soft * crop + (1 - soft) * around).clip(0, 255).astype(np.uint8)


def _own(small: Picture, landmarks: Points) -> tuple[Picture, Picture]:
    """1 over what is the face's own in `float32 [n,n,3]`: its features, its chin and its skin; and
    1 over what of it may be carried on."""
    size = small.shape[0]
    up = np.array([0.0, landmarks[30, 1] - landmarks[17:27, 1].mean()])
    brows = landmarks[17:27].copy()
    brows[[0, -1]] = (brows[[0, -1]] + brows[[1, -2]]) / 2  # hair falls over their ends
    raised = brows - np.concatenate([RAISED, RAISED[::-1]])[:, None] * ABOVE * up
    arcs = np.concatenate([brows.reshape(2, 5, 2), raised.reshape(2, 5, 2)], axis=1)
    parts = [*arcs, landmarks[36:48], landmarks[27:36], landmarks[48:60]]
    features = np.maximum.reduce([hull_mask(part, size) for part in parts])
    features = cv2.dilate(features, np.ones((round(0.02 * size) | 1,) * 2, np.uint8))
    middle = landmarks[27:36].mean(axis=0)
    jaw = middle + INWARDS * (landmarks[:17] - middle)
    whole = hull_mask(np.concatenate([landmarks[17:], brows - 2 * ABOVE * up, jaw]), size)
    cheeks = np.concatenate(
        [landmarks[[40, 41, 46, 47, 31, 35]], (jaw[[2, 3, 13, 14]] + middle) / 2]
    )
    found = find_skin(small, hull_mask(cheeks, size))
    if found is None:
        return whole, whole * (1 - features)
    beard = found.pale * (np.arange(size)[:, None] > landmarks[[48, 54], 1].mean())
    like = np.maximum(found.likeness, beard)
    own = whole * (1 - reaching_in(like, whole))
    lab = np.asarray(cv2.cvtColor(small / np.float32(255), cv2.COLOR_RGB2LAB), np.float32)
    in_light = _likeness(from_skin(lab, found.tone, IN_LIGHT))
    features = features * (1 - _hair_over(in_light, brows, up, features))
    forehead = np.arange(size)[:, None] < brows[:, 1].mean()
    like = np.where(forehead, in_light, like)
    own = np.where(forehead, own * like, own)  # single strands of hair; brows are features
    skin = own * (like > 0.9) * (1 - features)
    return np.maximum(features, own).astype(np.float32), skin.astype(np.float32)


def _hair_over(
    skin: Picture, brows: Points, up: Points, features: NDArray[Any]
) -> NDArray[np.uint8]:
    """1 where hair, which is no `skin [n,n]`, hangs down to one of the `brows [10,2]`, or beside
    its outer end, from beyond what counts as `features [n,n]`; 0 over the brows themselves."""
    size = len(skin)
    hair = np.zeros(skin.shape, np.uint8)
    for brow in (brows[:5], brows[:4:-1]):  # either from its outer end
        line = np.concatenate([[brow[0] + OUTER * (brow[0] - brow[-1])], brow])
        over = hull_mask(np.concatenate([line, line - OVER * up]), size) > 0
        own = np.zeros(skin.shape, np.uint8)
        width = max(3, round(ABOVE * float(np.linalg.norm(up))))
        cv2.polylines(own, [np.rint(brow[1:]).astype(np.int32)], False, 1, width)
        loose = (over & (skin < 0.5) & (own == 0)).astype(np.uint8)
        _, parts = cv2.connectedComponents(loose)
        beyond = np.unique(parts[features == 0])
        hair |= np.isin(parts, beyond[beyond > 0]).astype(np.uint8)
    return np.asarray(cv2.dilate(hair, np.ones((3, 3), np.uint8)))


def reaching_in(likeness: Picture, whole: Picture) -> Picture:
    """1 where what is not skin reaches from outside into `whole [h,w]` and is broader than a
    wrinkle or the rim of glasses, else 0."""
    thick = np.ones((max(3, round(0.03 * len(whole))) | 1,) * 2, np.uint8)
    inner = (whole > 0).astype(np.uint8)
    other = np.where((likeness < 0.5) & (whole > 0), np.uint8(1), np.uint8(0))
    other = cv2.morphologyEx(np.maximum(other, 1 - inner), cv2.MORPH_OPEN, thick)
    _, parts = cv2.connectedComponents(other)
    outside = np.unique(parts[(inner == 0) & (other > 0)])
    reached = np.isin(parts, outside[outside > 0]).astype(np.uint8) * inner
    return np.asarray(cv2.dilate(reached, thick) * inner, dtype=np.float32)


def soft_parts(
    other: NDArray[Any], inside: NDArray[np.bool_], picture: Picture, side: float
) -> NDArray[np.bool_]:
    """Of the parts of `other [h,w]` those that end softly before the rest of what is `inside
    [h,w]` and are no more colorful: skin in the shade or in bright light, where hair would have an
    edge. `picture float32 [h,w,3]` in levels of 256; the FFHQ square has `side` pixels."""
    if not np.any(other):
        return np.zeros(other.shape, bool)
    lab = cv2.cvtColor((picture / 255).clip(0, 1).astype(np.float32), cv2.COLOR_RGB2LAB)
    lab = cv2.GaussianBlur(lab, (0, 0), max(0.5, BLURRED * side))
    chroma = np.linalg.norm(lab[..., 1:], axis=-1)
    slopes = [cv2.Sobel(lab, cv2.CV_32F, *axis, scale=1 / 8) for axis in ((1, 0), (0, 1))]
    steep = EDGE_WIDTH * side * np.linalg.norm(np.concatenate(slopes, axis=-1), axis=-1)
    near = max(3, round(RIM * side)) | 1
    steep = cv2.dilate(steep.astype(np.float32), np.ones((near + 2,) * 2, np.uint8))
    other = (other > 0).astype(np.uint8)
    count, parts, stats, _ = cv2.connectedComponentsWithStats(other)
    soft = np.zeros(count, bool)
    for part in range(1, count):
        x, y, width, height = stats[part, :4]
        box = slice(max(0, y - near), y + height + near), slice(max(0, x - near), x + width + near)
        here = (parts[box] == part).astype(np.uint8)
        beside = cv2.dilate(here, np.ones((near,) * 2, np.uint8)) > 0
        rim = beside & (other[box] == 0) & inside[box]
        if rim.any() and float(np.median(steep[box][rim])) < EDGE:
            color, skin = (float(np.median(chroma[box][one])) for one in (here > 0, rim))
            soft[part] = color < skin + COLORFUL
    return np.asarray(soft[parts])


def _carried_on(picture: Picture, weight: Picture) -> Picture:
    """The colors where `weight [n,n]` is 1, averaged and carried on to everywhere."""
    total, spread = np.zeros_like(picture), np.zeros_like(weight)
    for sigma, share in ((0.015, 1.0), (0.04, 1e-2), (0.1, 1e-4), (0.3, 1e-6)):  # near colors first
        blurred = cv2.GaussianBlur(weight, (0, 0), sigma * len(picture))
        colors = cv2.GaussianBlur(picture * weight[..., None], (0, 0), sigma * len(picture))
        total, spread = total + share * colors, spread + share * blurred
    return np.asarray(total / (spread[..., None] + 1e-12), dtype=np.float32)


def hull_mask(points: Points, size: int) -> Picture:
    """1 within the convex hull of points in a square of `size`."""
    mask = np.zeros((size, size), np.uint8)
    hull = cv2.convexHull(np.rint((points - 0.5) * 16).astype(np.int32))
    cv2.fillConvexPoly(mask, hull, 1, lineType=cv2.LINE_8, shift=4)
    return mask.astype(np.float32)


def _enlarged(field: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(field, size, interpolation=cv2.INTER_LINEAR))
