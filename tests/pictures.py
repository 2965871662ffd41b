"""Pictures of every format with something to hide, made for the tests of the codec."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin

from deid.pixels import Pixels

SECRET = b"SECRETMARKER"


def smooth(height: int = 60, width: int = 80, seed: int = 0) -> Pixels:
    """A picture that lossy formats hold well: slow waves of color, `uint8 [H,W,3]`."""
    y, x = np.mgrid[0:height, 0:width] / 20.0
    phase = np.random.default_rng(seed).uniform(0, 6, 3)
    waves = [np.sin(x + p) + np.cos(y * (1 + i / 3) - p) for i, p in enumerate(phase)]
    return np.rint(128 + 50 * np.stack(waves, -1)).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """`image` as bytes of Pillow's format `kind`; HEIF by pillow-heif."""
    if kind == "HEIF":
        from pillow_heif import register_heif_opener

        register_heif_opener()
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def rgb(kind: str, **options: Any) -> bytes:
    """`smooth` as a file of a kind."""
    return saved(Image.fromarray(smooth()), kind, **options)


def palette_image(colors: int = 200, transparent: bool = False) -> Image.Image:
    """A "P" image of so many colors at most; the first one, or none, transparent."""
    image = Image.fromarray(smooth()).quantize(colors)
    if transparent:
        image.info["transparency"] = 0
    return image


def sixteen(channels: int, seed: int = 1) -> NDArray[np.uint16]:
    """`uint16 [60,80]` or `[60,80,C]`, RGB(A) order, low bytes at random; alpha opaque or not."""
    base = np.concatenate([smooth(), np.full((60, 80, 1), 255, np.uint8)], axis=2)
    base[:10, :10, 3] = 120
    low = np.random.default_rng(seed).integers(0, 256, (60, 80, 4))
    samples = base.astype(np.uint16) * 256 + low.astype(np.uint16)
    return samples[..., 0] if channels == 1 else np.ascontiguousarray(samples[..., :channels])


def sixteen_file(kind: str, channels: int) -> bytes:
    """`sixteen` as PNG or TIFF, written by OpenCV."""
    samples = sixteen(channels)
    if channels > 1:
        samples = np.ascontiguousarray(samples[..., [2, 1, 0, 3][:channels]])
    done, data = cv2.imencode({"PNG": ".png", "TIFF": ".tiff"}[kind], samples)
    assert done
    return bytes(data)


# ---- planted secrets


def planted_exif() -> bytes:
    """Exif with a camera, a place, a maker note and a thumbnail directory, each marked."""
    exif = Image.Exif()
    exif[0x010F] = SECRET.decode() + "-camera"
    exif[0x010E] = SECRET.decode() + "-description"
    exif[0x0132] = "2026:01:02 03:04:05"
    exif.get_ifd(0x8769).update(
        {0x927C: SECRET + b"-maker", 0x9003: "2026:01:02 03:04:05", 0x829A: 0.01}
    )
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.5), 29: SECRET.decode() + "-gps"})
    thumbnail = saved(Image.fromarray(smooth(16, 16)), "JPEG", comment=SECRET + b"-thumbnail")
    return _with_thumbnail(exif.tobytes(), thumbnail)


def _with_thumbnail(block: bytes, thumbnail: bytes) -> bytes:
    """The second directory of an Exif block, as cameras write it (Exif 2.32, section 4.5.4)."""
    tiff = bytearray(block.removeprefix(b"Exif\0\0"))
    tiff += b"\0" * (len(tiff) % 2)  # directories start at even places
    order = "<" if tiff[:2] == b"II" else ">"
    (first,) = struct.unpack_from(order + "I", tiff, 4)
    (entries,) = struct.unpack_from(order + "H", tiff, first)
    struct.pack_into(order + "I", tiff, first + 2 + 12 * entries, len(tiff))
    start = len(tiff) + 2 + 12 * 3 + 4
    fields = [(0x0103, 3, 6), (0x0201, 4, start), (0x0202, 4, len(thumbnail))]
    directory = struct.pack(order + "H", len(fields))
    for tag, kind, value in fields:
        packed = struct.pack(order + ("HH" if kind == 3 else "I"), *([value, 0][: 2 - kind // 4]))
        directory += struct.pack(order + "HHI", tag, kind, 1) + packed
    return b"Exif\0\0" + bytes(tiff) + directory + b"\0\0\0\0" + thumbnail


def planted_xmp() -> bytes:
    """An XMP packet with a creator, a region's name and a thumbnail in it."""
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        b'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
        b'xmp:CreatorTool="'
        + SECRET
        + b'-tool"><dc:creator><rdf:Seq><rdf:li>'
        + SECRET
        + b"-person"
        b"</rdf:li></rdf:Seq></dc:creator><dc:rights><rdf:Alt><rdf:li>By all &amp; none</rdf:li>"
        b"</rdf:Alt></dc:rights></rdf:Description></rdf:RDF></x:xmpmeta>"
    )


def planted_icc() -> bytes:
    """sRGB's profile with a mark behind it, which readers skip."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    marked = bytearray(profile + SECRET + b"-profile")
    struct.pack_into(">I", marked, 0, len(marked))
    return bytes(marked)


def swapped_icc() -> bytes:
    """A whole profile, not sRGB's, in which red and green have changed places."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for one, other in (
        (b"rXYZ", b"gXYZ"),
        ("sRGB".encode("utf-16-be"), "tRGB".encode("utf-16-be")),
    ):
        assert one in profile
        profile = profile.replace(one, b"swap").replace(other, one).replace(b"swap", other)
    return profile


def iptc(number: int, text: bytes) -> bytes:
    """One dataset of IPTC record 2."""
    return struct.pack(">BBBH", 0x1C, 2, number, len(text)) + text


def _iptc_segment() -> bytes:
    block = iptc(80, SECRET + b"-by-line") + iptc(116, b"All rights") + iptc(202, SECRET)
    resource = (
        b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(block)) + block + b"\0" * (len(block) % 2)
    )
    # A second resource holds a thumbnail (0x040C), as Photoshop writes it.
    resource += b"8BIM" + struct.pack(">HHI", 0x040C, 0, 12) + SECRET
    body = b"Photoshop 3.0\0" + resource
    return b"\xff\xed" + struct.pack(">H", len(body) + 2) + body


def _planted_jpeg(**options: Any) -> bytes:
    multi = b"\xff\xe2" + struct.pack(">H", 2 + 4 + len(SECRET)) + b"MPF\0" + SECRET
    data = rgb(
        "JPEG",
        quality=90,
        exif=planted_exif(),
        xmp=planted_xmp(),
        icc_profile=planted_icc(),
        comment=SECRET + b"-comment",
        extra=_iptc_segment(),
        **options,
    )
    return data[:2] + multi + data[2:] + SECRET + rgb("JPEG", comment=SECRET)


def _planted_png() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", SECRET.decode())
    text.add_text("Author", SECRET.decode(), zip=True)
    text.add_itxt("XML:com.adobe.xmp", planted_xmp().decode())
    text.add(b"prVt", SECRET)
    text.add(b"tIME", b"\x07\xea\x01\x02\x03\x04\x05")
    text.add(b"prVt", SECRET, after_idat=True)
    data = rgb("PNG", pnginfo=text, exif=planted_exif(), icc_profile=planted_icc())
    return data + SECRET


def _planted_tiff() -> bytes:
    exif = Image.Exif()
    exif.load(planted_exif())
    exif[700] = planted_xmp()
    exif[33723] = iptc(80, SECRET)
    exif[65000] = SECRET.decode()
    second = Image.fromarray(smooth(seed=5))
    options = {"icc_profile": planted_icc(), "save_all": True, "append_images": [second]}
    return rgb("TIFF", exif=exif, **options) + SECRET


def _planted_gif() -> bytes:
    second = Image.fromarray(smooth(seed=5)).quantize(64)
    data = saved(
        palette_image(), "GIF", comment=SECRET, save_all=True, append_images=[second], duration=50
    )
    xmp = b"\x21\xff\x0bXMP DataXMP" + bytes([len(SECRET)]) + SECRET + b"\0"
    start = 13 + 3 * 256 if data[10] & 7 == 7 else 13 + (3 << ((data[10] & 7) + 1))
    return data[:start] + xmp + data[start:] + SECRET


def _planted_webp() -> bytes:
    second = Image.fromarray(smooth(seed=5))
    return rgb(
        "WEBP",
        exif=planted_exif(),
        xmp=planted_xmp(),
        icc_profile=planted_icc(),
        save_all=True,
        append_images=[second],
    )


def _planted_heif() -> bytes:
    second = Image.fromarray(smooth(seed=5))
    return rgb(
        "HEIF",
        exif=planted_exif(),
        xmp=planted_xmp(),
        icc_profile=planted_icc(),
        thumbnails=[32],
        save_all=True,
        append_images=[second],
    )


def _planted_avif() -> bytes:
    return rgb("AVIF", exif=planted_exif(), xmp=planted_xmp(), icc_profile=planted_icc())


def _planted_bmp() -> bytes:
    return rgb("BMP") + SECRET


def _planted_mpo() -> bytes:
    second = Image.fromarray(smooth(seed=5))
    return rgb("MPO", exif=planted_exif(), save_all=True, append_images=[second])


PLANTED: dict[str, Callable[[], bytes]] = {
    "jpg": _planted_jpeg,
    "png": _planted_png,
    "tiff": _planted_tiff,
    "gif": _planted_gif,
    "webp": _planted_webp,
    "heic": _planted_heif,
    "avif": _planted_avif,
    "bmp": _planted_bmp,
    "mpo": _planted_mpo,
}


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Name and body of every chunk, by our own walk; the checksums must be right."""
    found, at = [], 8
    while at < len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        assert checksum == zlib.crc32(name + body)
        found.append((name, body))
        at += 12 + length
    return found


def png_with(data: bytes, exif: bytes, xmp: bytes, icc: bytes) -> bytes:
    """A PNG with metadata chunks put in by hand."""

    def chunk(name: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + check

    extra = chunk(b"iCCP", b"x\0\0" + zlib.compress(icc))
    extra += chunk(b"eXIf", exif.removeprefix(b"Exif\0\0"))
    extra += chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    return data[:33] + extra + data[33:]
