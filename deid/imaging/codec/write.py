"""Pixels to bytes: `encode`."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from deid.errors import DeidError
from deid.imaging.codec.form import Form
from deid.imaging.codec.heif import open_heif
from deid.imaging.codec.palette import to_palette
from deid.imaging.codec.sixteen_bit import Samples, with_changes, write_png, write_tiff
from deid.imaging.metadata import IPTC_TAG, XMP_TAG, Kept, jpeg_iptc_segment
from deid.pixels import Pixels


def encode(pixels: Pixels, alpha: Pixels | None, form: Form) -> bytes:
    """Encode `uint8 [H,W,3]` in the original's format with near-equal quality.

    No metadata but what the form has kept. Lossless formats give back exactly every pixel that is
    still the original's.
    """
    if form.samples is not None:
        return _encode_sixteen(pixels, form, form.samples)
    if form.palette and form.original is not None:
        return _save(to_palette(pixels, alpha, form.original), form)
    image = Image.fromarray(pixels)
    if form.gray:
        image = image.convert("L")
    if alpha is not None:
        image.putalpha(Image.fromarray(alpha))
    return _save(image, form)


def _encode_sixteen(pixels: Pixels, form: Form, samples: Samples) -> bytes:
    if form.original is None:
        raise ValueError("a 16-bit picture without its original")
    if form.gray:
        pixels = np.repeat(np.array(Image.fromarray(pixels).convert("L"))[..., None], 3, axis=2)
    changed = with_changes(samples, form.original, pixels)
    if changed.ndim == 2:
        return _save(Image.fromarray(changed), form)
    if form.format == "TIFF":
        return write_tiff(changed, form.kept)
    return _with_chunks(write_png(changed), form.kept)


def _save(image: Image.Image, form: Form) -> bytes:
    if form.format == "HEIF":
        _check_heif()
    out = io.BytesIO()
    image.save(out, format=form.format, **_options(form), **_metadata(form))
    return out.getvalue()


def _check_heif() -> None:
    """A build without an encoder is a reason to withhold the picture."""
    from pillow_heif import libheif_info

    open_heif()
    if not libheif_info()["encoders"]:
        raise DeidError("no HEIC encoder is installed; convert the picture to PNG or JPEG")


def _options(form: Form) -> dict[str, Any]:
    if form.format == "JPEG":
        return {"quality": form.quality, "subsampling": form.subsampling}
    if form.format == "WEBP":
        return {"quality": form.quality, "lossless": form.lossless, "exact": True}
    if form.format in ("HEIF", "AVIF"):
        return {"quality": form.quality}
    if form.format == "JPEG2000":  # its quality cannot be read from a file, so none is lost
        return {"irreversible": False}
    # Pillow writes a directory of Exif only where it does not compress.
    deflate = form.format == "TIFF" and not form.kept.exif
    return {"compression": "tiff_adobe_deflate"} if deflate else {}


def _metadata(form: Form) -> dict[str, Any]:
    kept = form.kept
    options: dict[str, Any] = {"icc_profile": kept.icc} if kept.icc else {}
    if kept.dpi:
        options["dpi"] = kept.dpi
    if form.format == "TIFF":
        return options | ({"exif": _tiff_tags(kept)} if kept.exif or kept.xmp or kept.iptc else {})
    if kept.exif:
        options["exif"] = kept.exif
    if kept.xmp and form.format == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", kept.xmp.decode())
    elif kept.xmp:
        options["xmp"] = kept.xmp
    if kept.iptc:
        options["extra"] = jpeg_iptc_segment(kept.iptc)
    return options


def _tiff_tags(kept: Kept) -> Image.Exif:
    tags = Image.Exif()
    if kept.exif:
        tags.load(kept.exif)
    for tag, block in ((XMP_TAG, kept.xmp), (IPTC_TAG, kept.iptc)):
        if block:
            tags[tag] = block
    return tags


def _with_chunks(png: bytes, kept: Kept) -> bytes:
    """Kept metadata put behind the header of a PNG that OpenCV wrote."""
    chunks = b""
    if kept.icc:
        chunks += _chunk(b"iCCP", b"ICC\0\0" + zlib.compress(kept.icc))
    if kept.dpi:
        across, down = (round(value / 0.0254) for value in kept.dpi)  # a meter
        chunks += _chunk(b"pHYs", struct.pack(">IIB", across, down, 1))
    if kept.exif:
        chunks += _chunk(b"eXIf", kept.exif.removeprefix(b"Exif\0\0"))
    if kept.xmp:
        chunks += _chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + kept.xmp)
    header = 8 + 25  # the signature and IHDR
    return png[:header] + chunks + png[header:]


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
