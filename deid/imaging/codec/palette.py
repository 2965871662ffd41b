"""Pictures of at most 256 colors: PNG, GIF, TIFF and BMP with a palette.

A pixel that is still the original's keeps its color exactly. The colors that only a replaced
face had make room for new ones; a changed pixel takes the nearest.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deid.pixels import Pixels

COLORS = 256
_ALPHA_WEIGHT = 16.0  # a changed pixel keeps its transparency before it gets its color

Codes = NDArray[np.uint32]


def to_palette(pixels: Pixels, alpha: Pixels | None, original: Pixels) -> Image.Image:
    """A "P" image of `uint8 [H,W,3]`; its `info` has the transparency, for PNG and GIF.

    `original` is the picture before any change, with the same `alpha`.
    """
    new, old = _codes(pixels, alpha), _codes(original, alpha)
    same = new == old
    kept = np.unique(new[same])
    if len(kept) > COLORS:
        raise ValueError("a palette of more than 256 colors")
    changed, counts = np.unique(new[~same], return_counts=True)
    added = _chosen(np.setdiff1d(changed, kept), changed, counts, COLORS - len(kept))
    table = np.unique(np.concatenate([kept, added]))
    colors = np.unique(new, return_inverse=True)
    place = _nearest(colors[0], table)
    image = Image.fromarray(place[colors[1]].reshape(pixels.shape[:2]))
    rgba = _rgba(table)
    image.putpalette(rgba[:, :3].tobytes())
    if alpha is not None:
        image.info["transparency"] = _transparency(rgba[:, 3])
    return image


def _codes(pixels: Pixels, alpha: Pixels | None) -> Codes:
    """One number for each pixel's RGBA; what nobody sees is all one color."""
    code: NDArray[Any] = pixels[..., 0].astype(np.uint32) << 16
    code |= pixels[..., 1].astype(np.uint32) << 8
    code |= pixels[..., 2]
    if alpha is None:
        return np.asarray(code | np.uint32(0xFF000000), dtype=np.uint32)
    code |= alpha.astype(np.uint32) << 24
    code[alpha == 0] = 0
    return np.asarray(code, dtype=np.uint32)


def _rgba(codes: Codes) -> Pixels:
    shifts = np.array([16, 8, 0, 24], np.uint32)
    return np.asarray((codes[:, None] >> shifts) & 0xFF, dtype=np.uint8)


def _chosen(wanted: Codes, changed: Codes, counts: NDArray[np.int64], room: int) -> Codes:
    """At most `room` colors for the changed pixels: all of them, or what median cut makes."""
    if len(wanted) <= room:
        return wanted
    if room == 0:
        return wanted[:0]
    # One row of the colors as often as they come, thinned: median cut weighs by area.
    often = np.maximum(1, counts * 50_000 // counts.sum())
    row = _rgba(np.repeat(changed, often))[None]
    made = Image.fromarray(row).quantize(room, method=Image.Quantize.FASTOCTREE)
    table = made.getpalette("RGBA") or []
    rgba = np.array(table, np.uint8).reshape(1, -1, 4)
    return np.unique(_codes(rgba[..., :3], rgba[..., 3]))[:room]


def _nearest(colors: Codes, table: Codes) -> NDArray[np.uint8]:
    """The place in `table` of the nearest color to each of `colors`; an equal one is exact."""
    weights = np.array([1, 1, 1, _ALPHA_WEIGHT], np.float32)
    there = _rgba(table).astype(np.float32) * weights
    place = np.empty(len(colors), np.uint8)
    for start in range(0, len(colors), 4096):
        here = _rgba(colors[start : start + 4096]).astype(np.float32) * weights
        distance = (here * here).sum(1)[:, None] - 2 * here @ there.T + (there * there).sum(1)
        place[start : start + 4096] = distance.argmin(axis=1)
    exact = np.searchsorted(table, colors).clip(max=len(table) - 1)
    equal = table[exact] == colors
    place[equal] = exact[equal]
    return place


def _transparency(alpha: Pixels) -> int | bytes:
    """GIF's one transparent color as its number, else PNG's alpha for each color."""
    clear = np.flatnonzero(alpha == 0)
    if len(clear) == 1 and bool((np.delete(alpha, clear) == 255).all()):
        return int(clear[0])
    return alpha.tobytes()
