"""A face may hide in a picture's transparency, where neither detector nor recognizer would look.

What is judged is RGB, and the transparency is written again beside it. So it is kept only while it
shows no face: over black, over white, by itself and as its negative, no face is seen but those that
RGB shows too, and over these the picture is opaque. Else it is left out, and what remains is RGB,
just as it is judged.
"""

from dataclasses import replace

import numpy as np

from deid.faces.alignment import Points
from deid.faces.faces import FaceDetector, Faces
from deid.imaging.align import Square
from deid.imaging.codec import Decoded
from deid.imaging.paste import hard_region, hull_of_points
from deid.pixels import Pixels

LEFT_OUT = "transparency left out: a face may show in it"
SHIFT = 0.25  # of the longer side of a face's box, by which it may lie elsewhere in another look
NEARLY_OPAQUE = 250
CORE = 0.98  # share of a face that must be that


def without_hidden_faces(
    decoded: Decoded, detector: FaceDetector, outlines: bool = False
) -> Decoded:
    """The same picture, its transparency left out (with a note) where a face may show in it; with
    `outlines`, wherever anything may: of somebody cut out it shows hair and shoulders."""
    alpha = decoded.alpha
    if alpha is None or bool((alpha >= NEARLY_OPAQUE).all()):
        return decoded
    if not outlines and not _hides(decoded, detector):
        return decoded
    form, samples = decoded.form, decoded.form.samples
    if samples is not None and samples.ndim == 3:
        samples = np.ascontiguousarray(samples[..., :3])
    return Decoded(decoded.pixels, None, replace(form, samples=samples), (*decoded.notes, LEFT_OUT))


def _hides(decoded: Decoded, detector: FaceDetector) -> bool:
    pixels, alpha = decoded.pixels, decoded.alpha
    if alpha is None:
        return False
    plain = detector.detect([pixels])[0]
    solid = [i for i in range(len(plain)) if _is_solid(alpha, plain.points[i])]
    if len(solid) < len(plain):
        return True
    for background in (0, 255):
        seen = detector.detect([_over(pixels, alpha, background)])[0]
        if any(nearest(plain, box) > SHIFT for box in seen.boxes):
            return True
    mask = np.repeat(alpha[..., None], 3, axis=2)
    return any(len(found) > 0 for found in detector.detect([mask, 255 - mask]))


def _over(pixels: Pixels, alpha: Pixels, background: int) -> Pixels:
    share = alpha[..., None].astype(np.float32) / 255.0
    shown = pixels * share + background * (1.0 - share)
    return np.asarray(np.rint(shown), dtype=np.uint8)


def _is_solid(alpha: Pixels, points: Points) -> bool:
    """Whether the picture is opaque over the face at five points `[5,2]`."""
    try:
        region = hard_region(hull_of_points(Square(np.asarray(points, np.float64))), alpha.shape)
    except ValueError:
        return False  # outside the picture
    x0, y0, x1, y1 = region.window
    inside = alpha[y0:y1, x0:x1][region.alpha > 0]
    return len(inside) > 0 and float((inside >= NEARLY_OPAQUE).mean()) >= CORE


def nearest(faces: Faces, box: Points) -> float:
    """How far a box `[4]` is from the nearest of `faces`, side by side, in its longer side."""
    if not len(faces):
        return float("inf")
    longer = max(float((box[2:] - box[:2]).max()), 1.0)
    return float(np.abs(faces.boxes - box).max(axis=1).min()) / longer
