"""16-bit pictures: PNG and TIFF, gray or RGB, with or without alpha.

Everything that works on a picture works on 8 bits, the high ones. A pixel that no face touched
gets all its 16 back. Pillow knows 16 bits of gray only, so OpenCV reads the colors; its samples
count only where they agree with what Pillow decoded.
"""

import io

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deid.imaging.metadata import IPTC_TAG, XMP_TAG, Kept
from deid.pixels import Pixels

Samples = NDArray[np.uint16]


def read_samples(
    upright: Image.Image, data: bytes, orientation: int, negative: bool
) -> Samples | None:
    """`uint16 [H,W]` or RGB(A) `[H,W,3 or 4]`, upright; None where they cannot be had."""
    if upright.mode.startswith("I;16"):
        gray = np.array(upright).astype(np.uint16)
        return 65535 - gray if negative else gray
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    try:
        read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if read is None or read.dtype != np.uint16 or read.ndim != 3 or read.shape[2] not in (3, 4):
        return None
    order = [2, 1, 0, 3][: read.shape[2]]
    rgb: Samples = np.asarray(read[..., order], dtype=np.uint16)
    return np.ascontiguousarray(_turn(rgb, orientation))


def same_picture(samples: Samples, pixels: Pixels, alpha: Pixels | None) -> bool:
    """Whether the high bytes of `samples` are just what the 8-bit decoder saw."""
    high = (samples >> 8).astype(np.uint8)
    if high.ndim == 2:
        return alpha is None and np.array_equal(high, pixels[..., 0])
    if high.shape[:2] != pixels.shape[:2] or (high.shape[2] == 4) != (alpha is not None):
        return False
    same = np.array_equal(high[..., :3], pixels)
    return same and (alpha is None or np.array_equal(high[..., 3], alpha))


def with_changes(samples: Samples, original: Pixels, pixels: Pixels) -> Samples:
    """`samples` with new values wherever `pixels` differ from `original`, `uint8 [H,W,3]`.

    A pixel of a face whose 8 bits happen to be what they were must not keep its low ones, or it
    would show itself; so what lies within a changed area is changed.
    """
    touched = _solid((pixels != original).any(axis=-1))
    new = pixels[..., 0] if samples.ndim == 2 else pixels
    out = samples.copy()
    colors = out if samples.ndim == 2 else out[..., :3]
    colors[touched] = new[touched].astype(np.uint16) * 257
    return out


def write_png(samples: Samples) -> bytes:
    """A PNG of `uint16 [H,W,3 or 4]`, nothing but the pixels in it."""
    bgr = samples[..., [2, 1, 0, 3][: samples.shape[2]]]
    done, data = cv2.imencode(".png", np.ascontiguousarray(bgr))
    if not done:
        raise ValueError("a 16-bit PNG was not encoded")
    return bytes(data)


def write_tiff(samples: Samples, kept: Kept) -> bytes:
    """A TIFF of `uint16 [H,W,3 or 4]` and what was kept; OpenCV would not say what alpha means."""
    import tifffile

    blocks = ((XMP_TAG, kept.xmp), (IPTC_TAG, kept.iptc))
    out = io.BytesIO()
    tifffile.imwrite(
        out,
        samples,
        photometric="rgb",
        extrasamples=["unassalpha"] if samples.shape[2] == 4 else None,
        compression="adobe_deflate",
        iccprofile=kept.icc or None,
        extratags=[(tag, 7, len(block), block, True) for tag, block in blocks if block],
        metadata=None,
        software=False,
    )
    return out.getvalue()


def _solid(touched: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Gaps of a few pixels and holes closed; a convex region stays what it is."""
    margin = 4  # so that closing does not grow into the picture's edge
    padded = cv2.copyMakeBorder(
        touched.astype(np.uint8), margin, margin, margin, margin, cv2.BORDER_CONSTANT
    )
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    outlines, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(closed, outlines, -1, 1, cv2.FILLED)
    return np.asarray(closed[margin:-margin, margin:-margin], dtype=np.bool_)


def _turn(array: Samples, orientation: int) -> Samples:
    """What `ImageOps.exif_transpose` does, for an array `[H,W,C]`."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array
