"""Pictures beyond the first one in a file. Only the first leaves: the others may show faces too.

GIF and TIFF are counted by their own chains here, because Pillow would decode or parse each frame;
every walk is bounded.
"""

import struct
from typing import Any

MOST = 1000  # nobody needs to know exactly beyond


def further_frames(image: Any, data: bytes) -> int:
    """How many pictures besides the first an opened Pillow `image` of `data` has, to `MOST`."""
    if image.format == "GIF":
        return max(0, min(_gif_frames(data), MOST) - 1)
    if image.format == "TIFF":
        return max(0, min(_tiff_frames(data), MOST) - 1)
    return max(0, min(int(getattr(image, "n_frames", 1)), MOST) - 1)


def say_dropped(count: int) -> str:
    """The note for the record."""
    if count >= MOST - 1:
        return f"at least {MOST - 1} further frames left out"
    return f"{count} further frame{'s' * (count > 1)} left out"


def _gif_frames(data: bytes) -> int:
    """Image descriptors of a GIF (GIF89a specification, section 20), as far as it is whole."""
    count, at = 0, 13 + _table_size(data[10])
    while at < len(data) and count < MOST:
        kind = data[at]
        if kind == 0x21:  # an extension
            at = _after_blocks(data, at + 2)
        elif kind == 0x2C and at + 9 < len(data):
            count += 1
            at = _after_blocks(data, at + 10 + _table_size(data[at + 9]) + 1)
        else:
            break
    return count


def _table_size(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    while at < len(data) and data[at]:
        at += data[at] + 1
    return at + 1


def _tiff_frames(data: bytes) -> int:
    """Directories of a TIFF or BigTIFF, as far as their chain leads."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    number, count_of, entry = ("Q", "Q", 20) if big else ("I", "H", 12)
    seen: set[int] = set()
    try:
        (at,) = struct.unpack_from(order + number, data, 8 if big else 4)
        while at and at not in seen and len(seen) < MOST:
            (entries,) = struct.unpack_from(order + count_of, data, at)
            seen.add(at)
            end = at + struct.calcsize(order + count_of) + entries * entry
            (at,) = struct.unpack_from(order + number, data, end)
    except struct.error:
        pass  # the chain leads out of the file
    return len(seen)
