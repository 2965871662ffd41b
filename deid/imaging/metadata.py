"""Metadata that a person asked to keep, by name; everything else is gone.

Nothing is copied as a block: what is kept is read, checked and written anew, so that a thumbnail, a
preview, a maker note or a private field cannot ride along.

Names: `icc`, `dpi`, `exif` (the camera's plain settings), `exif:TAG`, `xmp:PREFIX:NAME`,
`iptc:NAME`.
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from PIL import ExifTags, Image

from deid.errors import DeidError


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


XMP_TAG, IPTC_TAG = 700, 33723  # of a TIFF
_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825
_MOST_BYTES = 60_000  # a JPEG segment holds 65,533
_MOST_DPI = 100_000

# How a picture was taken; nothing that names a person, a place, a device or a second picture.
_PLAIN = _words(
    "ExposureTime FNumber ExposureProgram ISOSpeedRatings SensitivityType DateTime "
    "DateTimeOriginal DateTimeDigitized OffsetTime OffsetTimeOriginal OffsetTimeDigitized "
    "SubsecTime SubsecTimeOriginal SubsecTimeDigitized ShutterSpeedValue ApertureValue "
    "BrightnessValue ExposureBiasValue MaxApertureValue SubjectDistance MeteringMode LightSource "
    "Flash FocalLength FocalLengthIn35mmFilm ExposureMode WhiteBalance DigitalZoomRatio "
    "SceneCaptureType GainControl Contrast Saturation Sharpness SubjectDistanceRange"
)
# They describe how the original was stored, or hold pictures or blocks of any content.
_NEVER = _words(
    "Orientation ImageWidth ImageLength ExifImageWidth ExifImageHeight BitsPerSample Compression "
    "PhotometricInterpretation StripOffsets RowsPerStrip StripByteCounts TileWidth TileLength "
    "TileOffsets TileByteCounts SamplesPerPixel PlanarConfiguration Predictor ColorMap "
    "ExtraSamples SampleFormat JpegIFOffset JpegIFByteCount JPEGTables JPEGProc SubIFDs "
    "NewSubfileType SubfileType ExifOffset GPSInfo ExifInteroperabilityOffset MakerNote XMLPacket "
    "IPTCNAA ImageResources InterColorProfile DNGPrivateData MakerNoteSafety PrintImageMatching "
    "FreeOffsets FreeByteCounts"
)
_BASE_TAGS = {tag.name: tag.value for tag in ExifTags.Base}
_GPS_TAGS = {tag.name: tag.value for tag in ExifTags.GPS}

_NAMESPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xmpRights": "http://ns.adobe.com/xap/1.0/rights/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "Iptc4xmpCore": "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/",
    "plus": "http://ns.useplus.org/ldf/xmp/1.0/",
    "cc": "http://creativecommons.org/ns#",
}
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"

# Record 2 of IPTC-IIM 4.2, its texts; it can also hold a preview, which has no name here.
_IPTC = {
    "ObjectName": 5,
    "Urgency": 10,
    "Category": 15,
    "Keywords": 25,
    "SpecialInstructions": 40,
    "DateCreated": 55,
    "TimeCreated": 60,
    "By-line": 80,
    "By-lineTitle": 85,
    "City": 90,
    "Sub-location": 92,
    "Province-State": 95,
    "Country-Code": 100,
    "Country": 101,
    "Headline": 105,
    "Credit": 110,
    "Source": 115,
    "CopyrightNotice": 116,
    "Contact": 118,
    "Caption": 120,
    "Writer": 122,
}


@dataclass(frozen=True)
class Keep:
    """What to keep: `parse_keep` makes it."""

    icc: bool = False
    dpi: bool = False
    exif: frozenset[str] = frozenset()
    xmp: frozenset[tuple[str, str]] = frozenset()
    iptc: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Kept:
    """What a picture had of it, as the encoders want it: an Exif block, a packet, a resource."""

    icc: bytes = b""
    dpi: tuple[float, float] | None = None
    exif: bytes = b""
    xmp: bytes = b""
    iptc: bytes = b""


NOTHING = Keep()

_HOLDS = {
    # What a format can hold; every other one: icc, exif and xmp.
    "JPEG": {"icc", "dpi", "exif", "xmp", "iptc"},
    "TIFF": {"icc", "dpi", "exif", "xmp", "iptc"},
    "PNG": {"icc", "dpi", "exif", "xmp"},
    "BMP": {"dpi"},
    "JPEG2000": {"icc"},
    "GIF": set[str](),
    "TGA": set[str](),
    "PPM": set[str](),
}


def parse_keep(names: Iterable[str]) -> Keep:
    """Names, each maybe a list separated by commas, to a `Keep`; `DeidError` for any other name."""
    flags, exif, xmp, iptc = set[str](), set[str](), set[tuple[str, str]](), set[str]()
    for name in (part.strip() for text in names for part in text.split(",") if part.strip()):
        kind, _, rest = name.partition(":")
        prefix, _, last = rest.partition(":")
        if name in ("icc", "dpi"):
            flags.add(name)
        elif name in ("exif", "exif:*"):
            exif |= _PLAIN
        elif kind == "exif" and _may_keep(rest):
            exif.add(rest)
        elif kind == "xmp" and prefix in _NAMESPACES and last.isalnum() and last != "Thumbnails":
            xmp.add((prefix, last))
        elif kind == "iptc" and rest in _IPTC:
            iptc.add(rest)
        else:
            raise DeidError(f"keep metadata {name!r}: {_why_not(kind, rest)}")
    return Keep("icc" in flags, "dpi" in flags, frozenset(exif), frozenset(xmp), frozenset(iptc))


def _may_keep(tag: str) -> bool:
    return tag in (_BASE_TAGS.keys() | _GPS_TAGS.keys()) - _NEVER


def _why_not(kind: str, rest: str) -> str:
    if kind == "exif" and ("thumbnail" in rest.lower() or rest in _NEVER):
        return "may hold or describe the original picture, so it is never kept; leave it out"
    return "unknown; write icc, dpi, exif, exif:TAG, xmp:PREFIX:NAME or iptc:NAME"


def read_kept(image: Image.Image, keep: Keep) -> Kept:
    """What an opened picture has of `keep`; broken metadata counts as none.

    The profile is left to the decoder, which knows whether it converted the colors.
    """
    if keep == NOTHING:
        return Kept()
    return Kept(
        dpi=_dpi(image) if keep.dpi else None,
        exif=_read(_exif, image, keep.exif),
        xmp=_read(_xmp, image, keep.xmp),
        iptc=_read(_iptc, image, keep.iptc),
    )


def _read(reader: Any, image: Image.Image, names: frozenset[Any]) -> bytes:
    try:
        block = bytes(reader(image, names)) if names else b""
    except Exception:  # mangled metadata raises nearly every type
        return b""
    return block if len(block) <= _MOST_BYTES else b""


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    """Dots an inch, across and down, as far as they are sane."""
    stated = image.info.get("dpi")
    try:
        across, down = (float(value) for value in stated)  # type: ignore[union-attr]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if 1 <= across <= _MOST_DPI and 1 <= down <= _MOST_DPI else None


def fitting(kept: Kept, stored: str, deep_color: bool) -> tuple[Kept, tuple[str, ...]]:
    """What a format can hold of `kept`, and a note for each kind that it cannot."""
    holds = _HOLDS.get(stored, {"icc", "exif", "xmp"})
    if stored == "TIFF" and deep_color:
        holds = holds - {"exif", "dpi"}
    lost = sorted(kind for kind, value in vars(kept).items() if value and kind not in holds)
    notes = tuple(f"{kind} not kept: this kind of {stored} holds none" for kind in lost)
    empty = vars(Kept())
    return replace(kept, **{kind: empty[kind] for kind in lost}), notes


# ---- Exif


def _exif(image: Image.Image, names: frozenset[str]) -> bytes:
    found, made = image.getexif(), Image.Exif()
    wanted = {_BASE_TAGS[name] for name in names if name in _BASE_TAGS}
    _copy(found, made, wanted)
    for ifd, tags in (
        (_EXIF_IFD, wanted),
        (_GPS_IFD, {_GPS_TAGS[name] for name in names if name in _GPS_TAGS}),
    ):
        inner: dict[int, Any] = {}
        _copy(found.get_ifd(ifd), inner, tags)
        if inner:
            made.get_ifd(ifd).update(inner)
            made[ifd] = inner
    return made.tobytes() if len(made) else b""


def _copy(found: Mapping[int, Any], made: Any, tags: set[int]) -> None:
    for tag in sorted(tags & set(found)):
        if isinstance(found[tag], (str, int, float, bytes, tuple)) or hasattr(
            found[tag], "numerator"
        ):
            made[tag] = found[tag]


# ---- XMP


def _xmp(image: Image.Image, names: frozenset[tuple[str, str]]) -> bytes:
    packet = (image.info.get("xmp") or b"").strip(b"\x00 \n")
    if not packet or any(mark in packet for mark in (b"<!DOCTYPE", b"<!ENTITY", b"\x00")):
        return b""  # no packet needs entities; with zeros it is in a coding that could hide them
    root = ElementTree.fromstring(packet)
    fields = []
    for prefix, name in sorted(names):
        texts = _xmp_texts(root, f"{{{_NAMESPACES[prefix]}}}{name}")
        items = "".join(f"<rdf:li>{escape(text)}</rdf:li>" for text in texts)
        if items:
            fields.append(f"<{prefix}:{name}><rdf:Bag>{items}</rdf:Bag></{prefix}:{name}>")
    if not fields:
        return b""
    spaces = "".join(f' xmlns:{prefix}="{_NAMESPACES[prefix]}"' for prefix, _ in sorted(names))
    spaces = "".join(dict.fromkeys(f" {part}" for part in spaces.split()))
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="' + _RDF + '">'
        f'<rdf:Description rdf:about=""{spaces}>{"".join(fields)}</rdf:Description>'
        "</rdf:RDF></x:xmpmeta>"
    ).encode()


def _xmp_texts(root: ElementTree.Element, name: str) -> list[str]:
    """The texts of a property, which may be an attribute, an element or a list of either."""
    descriptions = root.iter(f"{{{_RDF}}}Description")
    texts = [node.attrib[name] for node in descriptions if name in node.attrib]
    for node in root.iter(name):
        items = list(node.iter(f"{{{_RDF}}}li")) or ([] if len(node) else [node])
        texts += [item.text for item in items if item.text and not len(item)]
    return [text.strip() for text in texts if text.strip()]


# ---- IPTC


def _iptc(image: Image.Image, names: frozenset[str]) -> bytes:
    block, numbers = _iptc_block(image), {_IPTC[name] for name in names}
    made, at = b"", 0
    while at + 5 <= len(block) and block[at] == 0x1C:
        record, number, length = struct.unpack_from(">BBH", block, at + 1)
        if length & 0x8000:  # an extended dataset, never a short text
            break
        if record == 2 and number in numbers:
            made += block[at : at + 5 + length]
        at += 5 + length
    return made


def _iptc_block(image: Image.Image) -> bytes:
    resources = image.info.get("photoshop")
    if isinstance(resources, dict):
        return bytes(resources.get(0x0404, b""))
    tags = getattr(image, "tag_v2", {})
    block = tags.get(IPTC_TAG, b"") if tags else b""
    return block if isinstance(block, bytes) else b""


def jpeg_iptc_segment(iptc: bytes) -> bytes:
    """An APP13 segment that holds nothing but IPTC datasets (Photoshop resource 0x0404)."""
    resource = b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(iptc)) + iptc + b"\0" * (len(iptc) % 2)
    body = b"Photoshop 3.0\0" + resource
    return b"\xff\xed" + struct.pack(">H", len(body) + 2) + body
