"""How strongly a lossy original was compressed, read from the file and not copied from it."""

import struct
from collections.abc import Iterator

import numpy as np

from deid.imaging.codec.form import DEFAULT_QUALITY

# The luminance table of the JPEG standard (ITU-T T.81, table K.1), which quality scales.
_LUMINANCE = np.fromstring(
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 "
    "62 18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 "
    "98 112 100 103 99",
    dtype=np.int64,
    sep=" ",
)


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


def webp_is_lossless(data: bytes) -> bool:
    """Whether the (first) picture of a WebP file is a lossless one: a VP8L chunk comes first."""
    for name, start in _riff_chunks(data, 12):
        if name == b"ANMF":  # a frame: 16 bytes of place and time, then chunks of its own
            return next((n for n, _ in _riff_chunks(data, start + 16) if n != b"ALPH"), b"") == (
                b"VP8L"
            )
        if name in (b"VP8 ", b"VP8L"):
            return name == b"VP8L"
    return False


def _riff_chunks(data: bytes, at: int) -> Iterator[tuple[bytes, int]]:
    """Names and starts of the chunks from `at` on; there are never many before the picture."""
    for _ in range(100):
        if at + 8 > len(data):
            return
        name, length = struct.unpack_from("<4sI", data, at)
        yield name, at + 8
        at += 8 + length + length % 2


def png_depth(data: bytes) -> int:
    """Bits of a channel that a PNG's header states; 0 if it has none."""
    return data[24] if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 24 else 0
