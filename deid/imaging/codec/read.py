"""Bytes to pixels: `decode`."""

import functools
import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL import (
    Image,
    ImageCms,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    UnidentifiedImageError,
)

from deid.errors import DeidError
from deid.imaging.codec.form import MAX_PIXELS, MAX_SIDE, Decoded, Form
from deid.imaging.codec.frames import further_frames, say_dropped
from deid.imaging.codec.heif import open_heif
from deid.imaging.codec.quality import jpeg_quality, png_depth, webp_is_lossless
from deid.imaging.codec.sixteen_bit import Samples, read_samples, same_picture
from deid.imaging.metadata import NOTHING, Keep, Kept, fitting, read_kept
from deid.imaging.profile import kept_profile
from deid.pixels import Pixels

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000")
_TGA_END = b"TRUEVISION-XFILE.\0"  # the only mark of a TGA; without it, nearly any bytes are one
NEWER_QUALITY = 90  # HEIC and AVIF do not tell theirs; on their scales this is near-transparent
_KEEP_OPAQUE = ("PNG", "TIFF", "BMP")
_ORIENTATION, _BITS, _PHOTOMETRIC = 0x0112, 258, 262


class TooLarge(DeidError):
    """A picture has more pixels than it may have."""


def decode(
    data: bytes,
    name: str,
    keep: Keep = NOTHING,
    first_frame_only: bool = False,
    most: int = MAX_PIXELS,
) -> Decoded:
    """Decode `data`; a `DeidError` with `name` for anything that is not a whole, sane picture.

    The content decides what it is, not a suffix. Of `keep`, what the picture has goes to its form.
    One of more than `most` pixels is `TooLarge`, and never unpacked.
    A film or a file of several pages is refused, unless `first_frame_only`: the others are lost.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # other libraries set it; half a picture hides faces
    try:
        _quiet()
        with Image.open(io.BytesIO(data), formats=_formats(data)) as image:
            _check_size(image, name, most)
            if not first_frame_only:
                _check_frames(image, data, name)
            return _read(image, data, name, keep, most)
    except DeidError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        stated = re.search(r"\d+(?= pixels)", str(error))
        raise _too_large(name, f"{int(stated[0]):,} pixels" if stated else "its pixels") from None
    except UnidentifiedImageError:
        raise DeidError(
            f"{name}: not a whole picture (no known format, or damaged); replace it"
        ) from None
    except Exception as error:  # Pillow's decoders raise nearly every type on mangled files
        raise DeidError(f"{name}: not a whole picture ({_brief(error)}); replace it") from None


@functools.cache
def _quiet() -> None:
    """Pillow warns of every oddity in a file; what matters here raises.

    Set once and not around each call, because `catch_warnings` is not safe among threads.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _formats(data: bytes) -> tuple[str, ...]:
    """The decoders that may be tried. HEIC's is loaded when such a file comes."""
    if data[4:8] != b"ftyp":
        return ("TGA",) if data.endswith(_TGA_END) else FORMATS
    open_heif()
    return ("AVIF", "HEIF")


def _check_size(image: Image.Image, name: str, most: int) -> None:
    width, height = image.size
    if width * height > min(most, MAX_PIXELS) or max(width, height) > MAX_SIDE:
        raise _too_large(name, f"{width} x {height} pixels", most)


def _too_large(name: str, size: str, most: int = MAX_PIXELS) -> TooLarge:
    return TooLarge(
        f"{name}: {size} are too many (at most {min(most, MAX_PIXELS):,}, and {MAX_SIDE:,} on a "
        "side); scale it down first"
    )


def _check_frames(image: Image.Image, data: bytes, name: str) -> None:
    """The further pictures of a JPEG are no content of their own: depth, gain maps, previews."""
    if image.format != "MPO" and (count := further_frames(image, data)):
        raise DeidError(
            f"{name}: {count + 1} frames or pages; split it up, or give --first-frame-only"
        )


@dataclass(frozen=True)
class _Facts:
    """What Pillow knows of a picture only until it loads the pixels."""

    format: str
    mode: str
    gray: bool
    palette: bool
    sixteen: bool
    negative: bool  # 16-bit gray that counts from white, which Pillow leaves as it is
    orientation: int
    profile: bytes | None  # to convert the colors by
    kept: Kept
    notes: tuple[str, ...]


def _facts(image: Image.Image, data: bytes, keep: Keep) -> _Facts:
    stored = "JPEG" if image.format == "MPO" else str(image.format)
    mode, tags = image.mode, getattr(image, "tag_v2", {})
    gray = mode in ("1", "L", "LA", "La") or mode.startswith("I;16")
    bits = tags.get(_BITS, ()) if stored == "TIFF" else (png_depth(data),)
    kept, profile = read_kept(image, keep), image.info.get("icc_profile")
    orientation = _orientation(image, data)
    if profile and keep.icc and (colors := kept_profile(profile, gray)):
        kept, profile = replace(kept, icc=colors), None
    return _Facts(
        format=stored,
        mode=mode,
        gray=gray and stored != "GIF",
        palette=mode == "P" or stored == "GIF",
        sixteen=bool(bits) and set(bits) == {16},
        negative=mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == 0,
        orientation=orientation,
        profile=profile if profile and not _is_srgb(profile) else None,
        kept=kept,
        notes=tuple(_lost(image, data)),
    )


def _orientation(image: Image.Image, data: bytes) -> int:
    """By Exif, 1 to 8. In HEIC a box of its own says it, and libheif has turned the picture by it;
    where there is none, what Exif says counts."""
    stated = image.getexif().get(_ORIENTATION, 1)
    if image.format == "HEIF" and not any(box in data for box in (b"irot", b"imir")):
        stated = image.info.get("original_orientation")
    return stated if isinstance(stated, int) and 1 <= stated <= 8 else 1


def _lost(image: Image.Image, data: bytes) -> Iterator[str]:
    """What cannot come back, in words."""
    if dropped := further_frames(image, data):
        yield say_dropped(dropped)
    if image.mode == "CMYK":
        yield "CMYK became RGB"
    if image.mode == "1":
        yield "1 bit became 8 bits of gray"
    if (depth := image.info.get("bit_depth", 8)) > 8:
        yield f"{depth} bits became 8"


def _read(image: Image.Image, data: bytes, name: str, keep: Keep, most: int) -> Decoded:
    facts, form = _facts(image, data, keep), _form(image, data)
    image.load()
    _check_size(image, name, most)  # HEIC tells its true size only now
    pixels, alpha, samples = _arrays(image, data, facts)
    notes = facts.notes
    if facts.sixteen and samples is None:
        notes += ("16 bits became 8",)
    palette = facts.palette and (alpha is None or facts.format in ("PNG", "GIF"))
    kept, unkept = fitting(facts.kept, facts.format, samples is not None and samples.ndim == 3)
    form = replace(
        form,
        gray=facts.gray,
        palette=palette,
        original=pixels if palette or samples is not None else None,
        samples=samples,
        kept=kept,
    )
    return Decoded(pixels, alpha, form, notes + unkept)


def _arrays(
    image: Image.Image, data: bytes, facts: _Facts
) -> tuple[Pixels, Pixels | None, Samples | None]:
    """Upright pixels and alpha of 8 bits, and all 16 bits where they can be kept."""
    if facts.format == "HEIF":  # libheif's wrapper has set it back
        image.getexif()[_ORIENTATION] = facts.orientation
    upright = image if facts.orientation == 1 else ImageOps.exif_transpose(image)
    samples = None
    if facts.sixteen:
        samples = read_samples(upright, data, facts.orientation, facts.negative)
    if facts.mode.startswith("I;16") and samples is not None:
        eight = Image.fromarray((samples >> 8).astype(np.uint8))
        pixels, alpha = _to_srgb(eight, facts.profile), None
    else:
        pixels, alpha = _eight_bits(upright, facts)
    if samples is not None and (facts.profile or not same_picture(samples, pixels, alpha)):
        samples = None
    if alpha is not None:
        pixels[alpha == 0] = 0  # what nobody sees must not carry a face either
        if samples is not None:
            samples[alpha == 0] = 0
        if (facts.palette or facts.format not in _KEEP_OPAQUE) and bool((alpha == 255).all()):
            alpha = None  # their encoders would leave it out
    return pixels, alpha, samples


def _form(image: Image.Image, data: bytes) -> Form:
    if image.format in ("HEIF", "AVIF"):
        return Form(image.format, quality=NEWER_QUALITY)
    if image.format not in ("JPEG", "MPO"):
        return Form(str(image.format), lossless=webp_is_lossless(data))
    tables = getattr(image, "quantization", {})
    sampling = JpegImagePlugin.get_sampling(image)
    quality, subsampling = jpeg_quality(tables.get(0)), sampling if sampling >= 0 else 2
    return Form("JPEG", quality=quality, subsampling=subsampling)


def _eight_bits(image: Image.Image, facts: _Facts) -> tuple[Pixels, Pixels | None]:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        raise DeidError(f"{facts.format} with {image.mode} samples is not supported; use 8 bits")
    alpha: Pixels | None = None
    if image.has_transparency_data:
        if image.mode == "La":  # premultiplied, which goes back to RGBA only by way of LA
            image = image.convert("LA")
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A")).copy()
        image = image.convert("RGB")
    elif image.mode == "P":
        image = image.convert("RGB")
    return _to_srgb(image, facts.profile), alpha


def _is_srgb(profile: bytes) -> bool:
    try:
        description = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    except (ImageCms.PyCMSError, OSError):
        return True  # a broken profile says nothing about the picture: its numbers stand
    return "srgb" in description.lower()


def _to_srgb(image: Image.Image, profile: bytes | None) -> Pixels:
    if profile and image.mode in ("RGB", "CMYK", "L"):
        try:
            source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), _srgb()
            image = ImageCms.profileToProfile(image, source, target, outputMode="RGB") or image
        except (ImageCms.PyCMSError, OSError):
            pass  # a profile of other channels than the picture's: its numbers stand
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _brief(error: Exception) -> str:
    said = re.sub(r"<[^<>]* at 0x[0-9a-f]+>", "the file", str(error))  # an object's address
    return (said or type(error).__name__).split("\n")[0][:120]
