"""What is known of a picture between its decoder and its encoder."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deid.errors import DeidError
from deid.imaging.metadata import Kept, fitting
from deid.pixels import Pixels

LOSSLESS = frozenset({"PNG", "BMP", "TIFF", "GIF", "PPM", "TGA", "JPEG2000"})
OPAQUE = frozenset({"JPEG", "BMP", "PPM"})  # they hold no transparency
MAX_PIXELS = 80_000_000
MAX_SIDE = 30_000  # OpenCV's warps address pixels with 16 bits
DEFAULT_QUALITY = 95


@dataclass(frozen=True)
class Form:
    """How a picture was stored, as far as its copy should be stored likewise.

    A palette or 16-bit picture brings `original`, its decoded `uint8 [H,W,3]`, so that the encoder
    can tell which pixels are still the original's and give them back exactly.
    """

    format: str
    gray: bool = False
    quality: int = DEFAULT_QUALITY
    subsampling: int = 0  # JPEG chroma: 0 is 4:4:4, 1 is 4:2:2, 2 is 4:2:0
    lossless: bool = False  # WebP
    palette: bool = False
    original: Pixels | None = field(default=None, compare=False, repr=False)
    samples: NDArray[np.uint16] | None = field(default=None, compare=False, repr=False)
    """`uint16 [H,W]` or `[H,W,3]` or, with alpha, `[H,W,4]`: RGB of a 16-bit picture, upright."""
    kept: Kept = field(default_factory=Kept)


@dataclass(frozen=True)
class Decoded:
    """A picture: `pixels uint8 [H,W,3]` sRGB, upright; `alpha uint8 [H,W]` where it has one.

    `notes` says in words what of the original cannot come back, such as further frames.
    """

    pixels: Pixels
    alpha: Pixels | None
    form: Form
    notes: tuple[str, ...] = ()

    def stored_as(self, target: str) -> "Decoded":
        """The same picture, to be stored in another format; `DeidError` where that has no
        transparency."""
        if target == self.form.format:
            return self
        if self.alpha is not None and target in OPAQUE:
            raise DeidError(f"{target} has no transparency; name the output .png")
        kept, lost = fitting(self.form.kept, target, deep_color=False)
        lossless = self.form.format in LOSSLESS
        form = Form(target, self.form.gray, lossless=lossless, kept=kept)
        note = f"stored as {target}, as its name says; it was {self.form.format}"
        depth = ("16 bits became 8",) if self.form.samples is not None else ()
        return Decoded(self.pixels, self.alpha, form, (*self.notes, note, *depth, *lost))
