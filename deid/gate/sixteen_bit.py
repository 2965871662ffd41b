"""A face may show in the lower bits of a 16-bit picture, of which detector and judges see the upper
eight.

Where the samples fill a small part of their range (12 bits of a camera in 16, a person in deep
shadow), the upper eight are nearly black, and any viewer that stretches them shows who is there.
Such a picture is refused. Low bytes that carry a picture of their own are left out.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from deid.errors import DeidError
from deid.faces.faces import FaceDetector, Faces
from deid.gate.transparency import SHIFT, nearest
from deid.imaging.codec import Decoded
from deid.imaging.codec.sixteen_bit import Samples
from deid.pixels import Pixels

LEFT_OUT = "16 bits became 8: a face may show in the low ones"


def without_faces_in_depth(decoded: Decoded, detector: FaceDetector) -> Decoded:
    """The same picture, its low bytes left out (with a note) where a face may show in them.

    `DeidError` where one shows in the shadows that 8 bits do not tell.
    """
    samples = decoded.form.samples
    if samples is None:
        return decoded
    colors = samples if samples.ndim == 2 else samples[..., :3]
    plain, *lifted = (detector.detect([one])[0] for one in (decoded.pixels, *_lifted(colors)))
    if any(_others(seen, plain) for seen in lifted):
        raise DeidError(
            "a face shows that the upper 8 of its 16 bits do not tell; brighten its shadows first"
        )
    low = (colors & 255).astype(np.uint8)
    if not _others(detector.detect([_rgb(low)])[0], plain):
        return decoded
    form = replace(decoded.form, samples=None)
    return replace(decoded, form=form, notes=(*decoded.notes, LEFT_OUT))


def _lifted(colors: Samples) -> tuple[Pixels, Pixels]:
    """The range that is used made the whole one, and the same on a logarithmic scale, on which
    shadows have as much room as lights."""
    values = colors.astype(np.float32)
    return _stretched(values), _stretched(np.log2(1.0 + values))


def _stretched(values: NDArray[np.float32]) -> Pixels:
    low, high = np.percentile(values, (1, 99))
    return _rgb(((values - low) / max(high - low, 1e-6) * 255).clip(0, 255).astype(np.uint8))


def _rgb(values: Pixels) -> Pixels:
    return np.repeat(values[..., None], 3, axis=2) if values.ndim == 2 else values


def _others(seen: Faces, plain: Faces) -> bool:
    return any(nearest(plain, box) > SHIFT for box in seen.boxes)
