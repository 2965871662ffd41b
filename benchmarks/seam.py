"""How much a seam shows: the step of color across the edge of what was replaced in a picture."""

import cv2
import numpy as np
from skimage.color import deltaE_ciede2000, rgb2lab

from deid.imaging.paste import Region
from deid.pixels import Pixels

REACH = 0.012  # of the FFHQ square's side: how far on either side of the edge colors are averaged


def seam(before: Pixels, after: Pixels, region: Region, side: float) -> float:
    """Mean ΔE2000 across the region's edge, above what the original has there; a face's FFHQ
    square has `side` pixels."""
    return edge_step(after, region, side) - edge_step(before, region, side)


def edge_step(picture: Pixels, region: Region, side: float) -> float:
    """Mean ΔE2000 between just inside and just outside the edge of a region of `uint8 [H,W,3]`."""
    x0, y0, x1, y1 = region.window
    lab = rgb2lab(picture[y0:y1, x0:x1]).astype(np.float32)
    sigma = max(1.0, REACH * side)
    means = []
    for chosen in (region.alpha >= 1, region.alpha <= 0.05):
        weight = chosen.astype(np.float32)
        total = cv2.GaussianBlur(lab * weight[..., None], (0, 0), sigma)
        means.append(total / (cv2.GaussianBlur(weight, (0, 0), sigma)[..., None] + 1e-6))
    edge = (region.alpha > 0.05) & (region.alpha < 1)
    return float(deltaE_ciede2000(*means)[edge].mean())
