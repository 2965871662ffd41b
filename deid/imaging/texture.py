"""A made face is as sharp and as grainy as the picture that it goes to.

A generator's faces are cleaner than a photograph, and sharper or softer than it. Both are measured
octave by octave: what varies least in a patch of skin is grain; what is left of the features is
sharpness.
"""

from itertools import accumulate, pairwise

import cv2
import numpy as np

from deid.imaging.blend import Picture

OCTAVES = 3  # from the finest, that are matched; the next one is what they are compared with
BLURS = (0.0, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
"""Standard deviations in pixels. Nothing is sharpened: that would show the generator's own grid."""

BLOCK = 8  # side of the blocks of a patch of skin; wrinkles are in some of them, grain in all
FEWEST = 24  # blocks, below which wrinkles may be in all
CALMEST = 10  # percentile of blocks that shows grain alone
MOST_GRAIN = 3.0  # levels of 256
FALL = 0.6  # of an octave's grain, at most, is in the next coarser one: wrinkles grow with scale
REACH = 256  # pixels from the middle of the features within which is measured
SMALLEST = 48  # pixels across the features, below which there is nothing to measure


def match_texture(new: Picture, old: Picture, features: Picture, skin: Picture) -> Picture:
    """`new float32 [h,w,3]` in levels of 256 with the sharpness that `old` has in `features [h,w]`
    and the grain that it has on its `skin [h,w]`; both masks are 0 or 1."""
    if features.sum() < SMALLEST**2:
        return new
    part = _middle(features)
    features, skin, there = features[part], skin[part], old[part]
    calm, wanted = _grain(_octaves(there), skin), _sharpness(there, features, skin)
    changed = [_blurred(new[part], sigma) for sigma in BLURS]
    misses = [np.abs(_sharpness(one, features, skin) - wanted).sum() for one in changed]
    best = int(np.argmin(misses))
    missing = np.maximum(0.0, calm**2 - _grain(_octaves(changed[best]), skin) ** 2) ** 0.5
    grain = _noise(missing.clip(0, MOST_GRAIN), new.shape[:2])
    return _blurred(new, BLURS[best]) + grain[..., None]


def _middle(features: Picture) -> tuple[slice, slice]:
    """The middle of the features, as much of it as is measured."""
    y, x = (int(where.mean()) for where in np.nonzero(features))
    return slice(max(0, y - REACH), y + REACH), slice(max(0, x - REACH), x + REACH)


def _blurred(picture: Picture, sigma: float) -> Picture:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma)) if sigma else picture


def _octaves(picture: Picture) -> list[Picture]:
    """Lightness, finest octave first, one more than `OCTAVES`."""
    gray = picture
    if picture.ndim == 3:
        gray = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.float32)
    levels = [gray, *(_blurred(gray, 2.0**k) for k in range(OCTAVES + 1))]
    return [fine - coarse for fine, coarse in pairwise(levels)]


def _grain(octaves: list[Picture], skin: Picture) -> Picture:
    """Standard deviation of the grain in each octave that is matched."""
    inside = _blocks(skin).mean(axis=(1, 3)) > 0.99
    if inside.sum() < FEWEST:
        return np.zeros(OCTAVES, np.float32)
    spreads = [_blocks(one).std(axis=(1, 3))[inside] for one in octaves[:OCTAVES]]
    calm = [float(np.percentile(spread, CALMEST)) for spread in spreads]
    return np.array(list(accumulate(calm, lambda fine, here: min(here, FALL * fine))), np.float32)


def _blocks(field: Picture) -> Picture:
    high, wide = (size // BLOCK for size in field.shape)
    return field[: high * BLOCK, : wide * BLOCK].reshape(high, BLOCK, wide, BLOCK)


def _sharpness(picture: Picture, features: Picture, skin: Picture) -> Picture:
    """Logarithm of each octave's detail over the coarsest's, without grain."""
    octaves = _octaves(picture)
    energy = np.array([np.mean(one[features > 0] ** 2) for one in octaves])
    energy[:OCTAVES] -= np.minimum(_grain(octaves, skin) ** 2, 0.9 * energy[:OCTAVES])
    energy = np.maximum(energy, 1e-4)
    return np.asarray(0.5 * np.log(energy[:-1] / energy[-1]), dtype=np.float32)


def _noise(spreads: Picture, shape: tuple[int, ...]) -> Picture:
    """Grain `[h,w]` with a standard deviation for each octave; always the same."""
    total = np.zeros(shape, np.float32)
    random = np.random.default_rng(0)
    for octave, spread in enumerate(spreads):
        if spread > 0:
            band = _octaves(random.standard_normal(shape, dtype=np.float32))[octave]
            total += spread * band / max(float(band.std()), 1e-6)
    return total
