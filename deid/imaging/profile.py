"""An ICC profile written anew from its colors: no text, no private tag, nothing of free form.

Kept are matrix and gray profiles (ICC.1:2022, 8.3 and 8.4): white point, primaries and curves of
brightness. A curve must rise, so it cannot hold another content. A profile with tables of any size
is not kept; its picture is converted to sRGB instead.
"""

import io
import struct
from itertools import pairwise

from PIL import ImageCms

_POINTS = (b"wtpt", b"bkpt", b"rXYZ", b"gXYZ", b"bXYZ")
_CURVES = (b"rTRC", b"gTRC", b"bTRC", b"kTRC")
_NEEDED = {
    b"RGB ": {b"wtpt", *_POINTS[2:], *_CURVES[:3]},
    b"GRAY": {b"wtpt", b"kTRC"},
}
_MOST_ENTRIES = 4096  # of a curve
_PARAMETERS = (1, 3, 4, 5, 7)  # of each kind of parametric curve
_NAME = "kept colors"


def kept_profile(profile: bytes, gray: bool) -> bytes:
    """What may be kept of a profile, at most 50 KB; nothing where it is broken, speaks of other
    channels than will be written, or holds more than a matrix and curves."""
    try:
        kept = rewritten(profile, gray)
        ImageCms.ImageCmsProfile(io.BytesIO(kept))
    except (ValueError, OSError, ImageCms.PyCMSError):
        return b""
    return kept


def rewritten(profile: bytes, gray: bool) -> bytes:
    """The profile with nothing but its colors; `ValueError` where it cannot be that."""
    space = b"GRAY" if gray else b"RGB "
    try:
        if profile[16:20] != space or profile[20:24] != b"XYZ " or profile[36:40] != b"acsp":
            raise ValueError("a profile of other channels, or of tables")
        tags = {name: _checked(name, body) for name, body in _tags(profile) if name in _KNOWN}
    except struct.error:
        raise ValueError("a profile that ends too early") from None
    if not _NEEDED[space] <= tags.keys():
        raise ValueError("a profile without a matrix and curves")
    tags = {b"desc": _text(profile[8]), **tags}
    table, blocks, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, body in tags.items():
        padded = body + b"\0" * (-len(body) % 4)
        table += struct.pack(">4sII", name, at + len(blocks), len(body))
        blocks += padded
    content = struct.pack(">I", len(tags)) + table + blocks
    return _header(profile, 128 + len(content)) + content


def _tags(profile: bytes) -> list[tuple[bytes, bytes]]:
    (count,) = struct.unpack_from(">I", profile, 128)
    entries = [struct.unpack_from(">4sII", profile, 132 + 12 * i) for i in range(min(count, 100))]
    return [(name, profile[start : start + size]) for name, start, size in entries]


def _checked(name: bytes, body: bytes) -> bytes:
    """A tag's body, of just the length that its kind has; `ValueError` for any other content."""
    kind = body[:4]
    if name in _POINTS and kind == b"XYZ ":
        return _exactly(body, 20)
    if name == b"chad" and kind == b"sf32":
        return _exactly(body, 44)
    if name in _CURVES and kind == b"para":
        (form,) = struct.unpack_from(">H", body, 8)
        if form < len(_PARAMETERS):
            return _exactly(body, 12 + 4 * _PARAMETERS[form])
    if name in _CURVES and kind == b"curv":
        (count,) = struct.unpack_from(">I", body, 8)
        if count <= _MOST_ENTRIES:
            whole = _exactly(body, 12 + 2 * count)
            values = struct.unpack_from(f">{count}H", whole, 12)
            if count == 1 or all(a <= b for a, b in pairwise(values)):
                return whole
    raise ValueError(f"{name!r} of a profile is no color")


_KNOWN = frozenset({*_POINTS, *_CURVES, b"chad"})


def _exactly(body: bytes, size: int) -> bytes:
    if len(body) < size:
        raise ValueError("a profile that ends too early")
    return body[:4] + b"\0\0\0\0" + body[8:size]


def _text(version: int) -> bytes:
    if version >= 4:
        text = _NAME.encode("utf-16-be")
        return b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", len(text), 28) + text
    text = _NAME.encode() + b"\0"
    return b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(4 + 4 + 2 + 1 + 67)


def _header(profile: bytes, size: int) -> bytes:
    """Version, class, color space and intent are kept; maker, device, date and identity are not."""
    if profile[12:16] not in (b"mntr", b"scnr", b"prtr", b"spac"):
        raise ValueError("a profile of no device")
    (intent,) = struct.unpack_from(">I", profile, 64)
    header = bytearray(128)
    struct.pack_into(">I", header, 0, size)
    header[8:10], header[12:24], header[36:40] = profile[8:10], profile[12:24], b"acsp"
    struct.pack_into(">6H", header, 24, 2000, 1, 1, 0, 0, 0)
    struct.pack_into(">I", header, 64, intent & 3)
    struct.pack_into(">3I", header, 68, 0xF6D6, 0x10000, 0xD32D)  # D50, the same in all profiles
    return bytes(header)
