"""A made face takes the light and color of the place it goes to, and ends there without a seam.

Both corrections are smooth fields of low order, worked out on a small grid: they carry the light
and the skin's tone, and little by which a person is known.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float32]

GRID = 96  # longer side of the grid on which fields are worked out
BLACK = 8.0  # levels added before a ratio is taken: dark pixels say little about light
WHITE = 255.0
TIRING = 0.75  # 0: light is a plain gain, which bleaches eyes; 1: odds, which dull a face
MOST_LIGHT = 1.3  # of what is added on that scale; 1.1 is a gain of three in the dark
EVEN = 0.12  # of the side: over how much light is taken to be even
MOST_CONTRAST = 1.4  # times as strong as drawn, at most: beyond it wrinkles become furrows
DARKEST, LIGHTEST = 10, 90  # percentiles of a cheek between which its light and shade lie
BAND = 0.03  # of the side: how far into the face colors at its edge are compared
DEPTH = 0.14  # of the side: how deep into the face the seam's correction reaches
AT_JAW = 60.0  # levels: about how much of it a jaw takes
SPREAD, JAW_SPREAD = 0.1, 0.05
"""Of the FFHQ square's side, along which the colors at the edge are averaged: where a face ends in
the person's own skin and hair, and where it ends before a background, which varies more. What they
tell in detail helps to know the person again: of 200 portraits MobileFace finds 13 % by the new
face alone at a third of this, 8 % so, and 7 % without them (nor grain); the seams of the first 100
are 1.3 and 1.7 ΔE2000. With forehead and hairline drawn anew it finds 21 % by the whole picture at
0.035 all around, 16 % so, 7 % without them."""


@dataclass(frozen=True)
class Place:
    """Where a face goes, over one window: `old float32 [h,w,3]`, what is there; `alpha [h,w]`, 1
    over the face; `skin [h,w]`, 1 on cheeks, nose and mouth; `jaw [h,w]`, 1 below the eyes, where
    a face ends before what is behind it, 0 above, where it goes on into hair; the FFHQ square's
    `side`."""

    old: Picture
    alpha: Picture
    skin: Picture
    jaw: Picture
    side: float


def blend_in(new: Picture, place: Place) -> Picture:
    """`float32 [h,w,3]` in levels of 256 → the same, matched to `place`."""
    return close_seam(match_light(new, place), place)


def match_light(new: Picture, place: Place) -> Picture:
    """Put `new` under the light that makes its skin like the old one's.

    By channel a field a + b·x + c·y, fitted to the skin with outliers (glasses, a beard) left out:
    the light's color, strength and direction. It is added on a scale on which dark pixels are
    multiplied and bright ones less and less: teeth and the whites of the eyes stay what they are.
    """
    size = _grid(new.shape)
    skin = cv2.resize(place.skin, size, interpolation=cv2.INTER_AREA)
    chosen = skin > 0.5
    if chosen.sum() < 12:
        return new
    light = _to_scale(_small(place.old, size)) - _to_scale(_small(new, size))
    field = np.clip(fit_field(light, chosen), -MOST_LIGHT, MOST_LIGHT).astype(np.float32)
    full = cv2.resize(field, (new.shape[1], new.shape[0]), interpolation=cv2.INTER_LINEAR)
    return _from_scale(_to_scale(new) + full)


def match_contrast(new: Picture, old: Picture, cheeks: Picture, side: float) -> Picture:
    """Give `new float32 [h,w,3]` light and shade as strong as `old` has on its `cheeks [h,w]`; the
    FFHQ square has `side` pixels.

    Dark skin shines where light falls on it and is deep in the shade: a light face that is made as
    dark in the mean is ashen. One number is taken of the old face. What is stronger already stays.
    """
    size = _grid(new.shape)
    chosen = cv2.resize(cheeks, size, interpolation=cv2.INTER_AREA) > 0.5
    if chosen.sum() < 12:
        return new
    there, here = (
        _to_scale(np.asarray(cv2.resize(one, size, interpolation=cv2.INTER_AREA), np.float32))
        for one in (old, new)
    )
    sigma = EVEN * side * size[0] / new.shape[1]
    evenly, even = (cv2.GaussianBlur(one, (0, 0), sigma) for one in (there, here))
    gain = _relief(there - evenly, chosen) / max(_relief(here - even, chosen), 1e-3)
    if gain <= 1.0:
        return new
    shape = new.shape[1], new.shape[0]
    level = np.asarray(cv2.resize(even, shape, interpolation=cv2.INTER_LINEAR), np.float32)
    return _from_scale(level + np.float32(min(gain, MOST_CONTRAST)) * (_to_scale(new) - level))


def _relief(shade: Picture, chosen: NDArray[np.bool_]) -> float:
    """How far apart light and shade `[h,w,3]` are where `chosen [h,w]`."""
    low, high = np.percentile(shade.mean(axis=-1)[chosen], (DARKEST, LIGHTEST))
    return float(high - low)


def _to_scale(levels: Picture) -> Picture:
    """Levels of 256 on a scale on which light is added: between their logarithm and log-odds."""
    share = (levels.clip(0.0, WHITE) + BLACK) / (WHITE + BLACK)
    return np.asarray(np.log(share / (1.0 - TIRING * share)), dtype=np.float32)


def _from_scale(values: Picture) -> Picture:
    dark = np.exp(values)
    share = dark / (1.0 + TIRING * dark)
    return np.asarray(share * (WHITE + BLACK) - BLACK, dtype=np.float32)


def close_seam(new: Picture, place: Place, seen: Picture | None = None) -> Picture:
    """Shift `new` near the mask's edge to the colors that were there, fading towards the middle.

    The difference in a band along the edge is carried inwards by normalized convolution: a
    membrane, as in gradient-domain cloning, that ends before it can tint the whole face. Where
    skin met hair or background it still does: the step that was there stays. At the jaw a large
    difference is mostly background within the mask, which must not shine through the skin, and
    the old jaw's own colors help to know a face again: there it is closed in part. `seen` is what
    counts as `new` at the edge, where that is not all of it.
    """
    whole = (place.alpha >= 1).astype(np.uint8)
    if whole.all() or not whole.any():
        return new
    inside = cv2.distanceTransform(whole, cv2.DIST_L2, 5)
    ring = (inside <= max(1.0, BAND * place.side)).astype(np.float32)
    there = _carried(place.old, ring, place)
    shift = there - _carried(new if seen is None else seen, ring, place)
    # No further than to the color that was there: dark hair that is lightened at the edge must
    # not light up the skin beside it.
    most = np.abs(there - new) * (np.sign(there - new) == np.sign(shift))
    large = np.abs(shift).max(axis=-1, keepdims=True) / AT_JAW
    shift = np.sign(shift) * np.minimum(np.abs(shift), most)
    jaw = place.jaw[..., None]
    shift = shift * (1.0 - jaw + jaw / np.sqrt(1.0 + large * large))
    fade = np.clip(1.0 - inside / max(1.0, DEPTH * place.side), 0.0, 1.0)
    return np.asarray(new + (fade * fade * (3 - 2 * fade))[..., None] * shift, dtype=np.float32)


def _carried(picture: Picture, ring: Picture, place: Place) -> Picture:
    """The ring's colors `[h,w,3]`, averaged along it and carried on to everywhere."""
    jaw = place.jaw[..., None]
    if not jaw.any():
        return _averaged(picture, ring, SPREAD * place.side)
    narrow, broad = (_averaged(picture, ring, s * place.side) for s in (JAW_SPREAD, SPREAD))
    return np.asarray(broad + jaw * (narrow - broad), dtype=np.float32)


def _averaged(picture: Picture, ring: Picture, reach: float) -> Picture:
    """The same, over `reach` pixels."""
    size = _grid(picture.shape)
    colors = cv2.resize(picture * ring[..., None], size, interpolation=cv2.INTER_AREA)
    weight = cv2.resize(ring, size, interpolation=cv2.INTER_AREA)
    sigma = max(0.6, reach * size[0] / picture.shape[1])
    total, spread = np.zeros_like(colors), np.zeros_like(weight)
    for scale, share in ((1.0, 1.0), (3.0, 1e-2), (9.0, 1e-4)):  # far from the ring: the coarse
        total = total + share * cv2.GaussianBlur(colors, (0, 0), sigma * scale)
        spread = spread + share * cv2.GaussianBlur(weight, (0, 0), sigma * scale)
    mean = total / (spread[..., None] + 1e-9)
    full = cv2.resize(mean, (picture.shape[1], picture.shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(full, dtype=np.float32)


def _grid(shape: tuple[int, ...]) -> tuple[int, int]:
    """Width and height of the small grid for a window of `shape`."""
    scale = min(1.0, GRID / max(shape[:2]))
    return max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale))


def _small(picture: Picture, size: tuple[int, int]) -> Picture:
    """Low frequencies only: eyes and lips are no light."""
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    smooth = cv2.GaussianBlur(small, (0, 0), max(0.5, 0.03 * max(size)))
    return np.asarray(smooth, dtype=np.float32).clip(0)


def fit_field(values: NDArray[Any], chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """By channel the a + b·x + c·y that fits `values [h,w,3]` best in `chosen [h,w]`, outliers left
    out; level beyond what is chosen."""
    basis = _basis(chosen)
    return np.stack(
        [basis @ _fit(basis[chosen], values[..., channel][chosen]) for channel in range(3)], -1
    )


def _basis(chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """`[h,w,3]`: 1, x and y in units of the chosen pixels' extent, held level outside it."""
    rows, columns = np.nonzero(chosen)
    y, x = np.mgrid[0 : chosen.shape[0], 0 : chosen.shape[1]].astype(np.float64)
    across, down = max(1.0, float(np.ptp(columns)) / 2), max(1.0, float(np.ptp(rows)) / 2)
    x, y = (x - columns.mean()) / across, (y - rows.mean()) / down
    return np.stack([np.ones_like(x), np.clip(x, -1.0, 1.0), np.clip(y, -1.0, 1.0)], axis=-1)


def _fit(basis: NDArray[np.float64], values: NDArray[Any]) -> NDArray[np.float64]:
    """Least squares of `[M,3]` to `[M]`, those far from it weighing less each of three rounds."""
    ridge = np.diag([0.0, 0.1, 0.1]) * len(values)
    weights = np.ones(len(values))
    solution = np.zeros(3)
    for _ in range(3):
        weighted = basis * weights[:, None]
        solution = np.linalg.solve(weighted.T @ basis + ridge, weighted.T @ values)
        miss = np.abs(values - basis @ solution)
        weights = 1.0 / np.maximum(1.0, miss / max(1e-3, 1.5 * float(np.median(miss))))
    return solution
