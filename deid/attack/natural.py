"""How natural pictures look, without a reference: NIQE (Mittal, Soundararajan, Bovik 2013).

A picture is described by the statistics of its pixels' normalized differences from their
surroundings, patch by patch, and compared with what is usual. Usual is here what these originals
are, in place of the authors' collection of photographs, so that values compare within one
examination and with nothing outside.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from deid.pixels import Pixels

Rows = NDArray[np.float64]
LEAST_SIDE = 128  # pixels; patches of less say too little
PATCHES = 4  # along a side
SHARP = 0.75  # of the sharpest patch's contrast, under which an original's patch does not count
SCALES = 2
FEATURES = 18 * SCALES
SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""From a pixel to the neighbors with which it is multiplied: rows down, columns to the right."""


def unnaturalness(originals: Pixels, outputs: Pixels) -> Rows | None:
    """The distance of each output `uint8 [N,S,S,3]` from what originals are like, `[N]`, ≥ 0; None
    where they are too small or too few to say that."""
    if originals.shape[1] < LEAST_SIDE:
        return None
    usual = np.concatenate([described(one, SHARP) for one in originals])
    if len(usual) <= 2 * FEATURES:
        return None
    mean, spread = usual.mean(axis=0), np.cov(usual.T)
    return np.array([_distance(mean, spread, described(one)) for one in outputs])


def described(picture: Pixels, sharp: float = 0.0) -> Rows:
    """The features `[P,36]` of those patches of a picture `uint8 [S,S,3]` whose mean contrast is at
    least `sharp` times that of its sharpest one."""
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float64)
    columns, contrast = [], np.zeros(0)
    for scale in range(SCALES):
        normal, deviation = normalized(gray)
        if scale == 0:
            contrast = _patches(deviation).mean(axis=1)
        columns.append(_statistics(normal))
        half = cv2.resize(gray, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        gray = half.astype(np.float64)
    return np.asarray(np.concatenate(columns, axis=1)[contrast >= sharp * contrast.max()])


def normalized(gray: Rows) -> tuple[Rows, Rows]:
    """Each pixel's difference from the mean around it, in standard deviations there, and these."""
    mean = cv2.GaussianBlur(gray, (7, 7), 7 / 6)
    variance = cv2.GaussianBlur(gray * gray, (7, 7), 7 / 6) - mean * mean
    deviation = np.sqrt(np.abs(variance))
    return (gray - mean) / (deviation + 1), deviation


def asymmetric_fit(values: Rows) -> tuple[Rows, Rows, Rows]:
    """The shape and both widths of the asymmetric generalized Gaussian that has the moments of each
    row `[P,n]` (Lasmar, Stitou, Berthoumieu 2009): shape 2 is a Gaussian, 1 a Laplacian."""
    from scipy.special import gamma

    shapes = np.arange(0.2, 10, 0.001)
    ratios = gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))  # rises with shape
    left, right = (_deviation(values, sign) for sign in (-1, 1))
    skew = left / right
    ratio = np.abs(values).mean(axis=1) ** 2 / np.maximum((values**2).mean(axis=1), 1e-12)
    ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shape = shapes[np.clip(np.searchsorted(ratios, ratio), 0, len(shapes) - 1)]
    width = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, left * width, right * width


def _deviation(values: Rows, sign: int) -> Rows:
    """From zero, of those of one sign; never zero itself."""
    chosen = np.where(sign * values > 0, values, 0.0)
    count = np.maximum((chosen != 0).sum(axis=1), 1)
    return np.asarray(np.maximum(np.sqrt((chosen**2).sum(axis=1) / count), 1e-6))


def _statistics(normal: Rows) -> Rows:
    """The 18 features of each patch, `[P,18]`."""
    from scipy.special import gamma

    shape, left, right = asymmetric_fit(_patches(normal))
    columns = [shape, (left + right) / 2]
    for shift in SHIFTS:
        shape, left, right = asymmetric_fit(_patches(normal * np.roll(normal, shift, (0, 1))))
        mean = (right - left) * gamma(2 / shape) / gamma(1 / shape)
        columns += [shape, mean, left, right]
    return np.stack(columns, axis=1)


def _patches(values: Rows) -> Rows:
    """`[S,S]` → `[PATCHES²,n]`, all pixels of a patch in a row."""
    side = values.shape[0] // PATCHES
    whole = values[: PATCHES * side, : PATCHES * side]
    return whole.reshape(PATCHES, side, PATCHES, side).swapaxes(1, 2).reshape(PATCHES**2, -1)


def _distance(mean: Rows, spread: Rows, features: Rows) -> float:
    apart = mean - features.mean(axis=0)
    return float(np.sqrt(apart @ np.linalg.pinv((spread + np.cov(features.T)) / 2) @ apart))
