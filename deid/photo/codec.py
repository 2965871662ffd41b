"""Bytes to pixels and back, with nothing but the picture in between.

Decoding bakes in the EXIF orientation and the colour profile and forgets everything else; encoding
starts from a bare array, so no metadata, thumbnail or extra frame of the original can pass.
"""

import io
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile, ImageOps, JpegImagePlugin

from deid.errors import DeidError
from deid.images import Pixels

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
MAX_PIXELS = 80_000_000
MAX_SIDE = 30_000  # OpenCV's warps address pixels with 16 bits
DEFAULT_QUALITY = 95

# The luminance table of the JPEG standard (ITU-T T.81, table K.1), which quality scales.
_LUMINANCE = np.fromstring(
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 "
    "62 18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 "
    "98 112 100 103 99",
    dtype=np.int64,
    sep=" ",
)


@dataclass(frozen=True)
class Form:
    """How a picture was stored, as far as its copy should be stored likewise."""

    format: str
    grey: bool = False
    quality: int = DEFAULT_QUALITY
    subsampling: int = 0  # JPEG chroma: 0 is 4:4:4, 1 is 4:2:2, 2 is 4:2:0
    lossless: bool = False  # WebP


@dataclass(frozen=True)
class Decoded:
    """A picture: `pixels uint8 [H,W,3]` sRGB, upright; `alpha uint8 [H,W]` where it has one."""

    pixels: Pixels
    alpha: Pixels | None
    form: Form


def decode(data: bytes, name: str) -> Decoded:
    """Decode `data`; a `DeidError` with `name` for anything that is not a whole, sane picture."""
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # other libraries set it; half a picture hides faces
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(image, name)
                form = _form(image, data)
                image.load()
                return _decoded(image, form)
    except DeidError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise DeidError(f"{name}: too many pixels; scale it down first") from None
    except Exception as error:  # Pillow's decoders raise nearly every type on mangled files
        raise DeidError(f"{name}: not a whole picture ({_brief(error)}); replace it") from None


def encode(pixels: Pixels, alpha: Pixels | None, form: Form) -> bytes:
    """Encode `uint8 [H,W,3]` in the original's format with near-equal quality, no metadata."""
    image = Image.fromarray(pixels)
    if form.grey:
        image = image.convert("L")
    if alpha is not None:
        image.putalpha(Image.fromarray(alpha))
    out = io.BytesIO()
    image.save(out, format=form.format, **_save_options(form))
    return out.getvalue()


def _save_options(form: Form) -> dict[str, Any]:
    if form.format == "JPEG":
        return {"quality": form.quality, "subsampling": form.subsampling, "optimize": True}
    if form.format == "WEBP":
        return {"quality": form.quality, "lossless": form.lossless, "exact": True}
    return {"compression": "tiff_adobe_deflate"} if form.format == "TIFF" else {}


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise DeidError(f"{name}: {width} x {height} pixels are too many; scale it down first")


def _form(image: Image.Image, data: bytes) -> Form:
    grey = image.mode in ("1", "L", "LA", "I;16", "I;16B", "I;16L")
    stored = "JPEG" if image.format == "MPO" else str(image.format)
    if stored != "JPEG":
        return Form(stored, grey, lossless=b"VP8L" in data[:64])
    tables = getattr(image, "quantization", {})
    sampling = JpegImagePlugin.get_sampling(image)
    return Form("JPEG", grey, jpeg_quality(tables.get(0)), sampling if sampling >= 0 else 2)


def jpeg_quality(table: list[int] | None) -> int:
    """The quality, 50 to 98, whose standard luminance table is nearest to `table`.

    The tables themselves are not copied: they tell the camera's maker.
    """
    if not table or len(table) != 64:
        return DEFAULT_QUALITY
    quality = np.arange(50, 99)
    scaled = (_LUMINANCE[None] * (200 - 2 * quality)[:, None] + 50) // 100
    # Sorted, because the order in which the 64 entries come is not the standard's own.
    distance = np.abs(np.sort(scaled.clip(1, 255)) - np.sort(np.array(table))).sum(1)
    return int(quality[distance.argmin()])


def _decoded(image: Image.Image, form: Form) -> Decoded:
    image = ImageOps.exif_transpose(image)
    alpha: NDArray[np.uint8] | None = None
    if image.mode.startswith("I;16"):
        pixels = np.asarray(image).astype(np.uint16) >> 8
        rgb = Image.fromarray(pixels.astype(np.uint8)).convert("RGB")
    elif image.mode in ("I", "F"):
        raise DeidError(f"{form.format} with {image.mode} samples is not supported; use 8 bits")
    else:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            alpha = np.asarray(image.getchannel("A")).copy()
        rgb = _to_srgb(image)
    pixels_out = np.asarray(rgb).copy()
    if alpha is not None:
        pixels_out[alpha == 0] = 0  # what nobody sees must not carry a face either
    return Decoded(pixels_out, alpha, form)


def _to_srgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if image.mode == "RGBA":
        image = image.convert("RGB")
    if profile and image.mode in ("RGB", "CMYK", "L"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "srgb" not in ImageCms.getProfileDescription(source).lower():
                target = ImageCms.createProfile("sRGB")
                changed = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
                image = changed or image
        except (ImageCms.PyCMSError, OSError):
            pass  # a broken profile says nothing about the picture: its numbers stand
    return image.convert("RGB")


def _brief(error: Exception) -> str:
    return (str(error) or type(error).__name__).split("\n")[0][:120]
