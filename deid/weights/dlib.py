"""dlib's serialized networks as plain tensors.

The file is a stream of layers, each with settings in a format of its own. The numbers, though, are
all of one form: the packed integer 2 (a version), four packed integers for the shape, then raw
float32. Between them lie a few bytes of settings only, so tensors are found by looking for that
form. A packed integer is a control byte (low nibble: how many bytes; 0x80: negative) and those
bytes, little end first.
"""

from collections.abc import Iterator
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from deid.errors import DeidError
from deid.weights.archives import read_bounded

KEY = "dlib"
"""The content of a dlib file is `{KEY: tensors}`."""

_HEAD = b"\x01\x01\x01\x0dloss_metric_"
"""How a network begins that was trained to tell faces apart."""
_MARK = b"\x01\x02"
"""The packed integer 2."""
_SMALLEST = 64
"""Numbers in the smallest tensor of weights; shorter finds are settings by chance."""
_MAX_FILE = 512 << 20


def is_dlib(head: bytes) -> bool:
    """Whether a file that begins so holds a recognizer of dlib's."""
    return head.startswith(_HEAD)


def read_dlib(path: Path) -> dict[str, list[Tensor]]:
    """`{KEY: tensors}`: every tensor of weights, flat, in the order of the file, input first.

    Raises DeidError where the file is too large or holds none.
    """
    tensors = list(_tensors(bytearray(read_bounded(path, _MAX_FILE))))
    if not tensors:
        raise DeidError(f"{path.name}: no tensors as dlib writes them; is it the right file?")
    return {KEY: tensors}


def _tensors(data: bytearray) -> Iterator[Tensor]:
    place = data.find(_MARK)
    while place >= 0:
        found = _shape(data, place + len(_MARK))
        after = place + 1
        if found is not None:
            start, count = found
            tensor = torch.frombuffer(data, dtype=torch.float32, count=count, offset=start)
            if bool(tensor.isfinite().all()) and tensor.abs().max() < 1e4:
                yield tensor.clone()
                after = start + 4 * count
        place = data.find(_MARK, after)


def _shape(data: bytearray, place: int) -> tuple[int, int] | None:
    """Where the numbers begin and how many there are, if a shape is here that fits the file."""
    sides = []
    for _ in range(4):
        packed = _packed(data, place)
        if packed is None:
            return None
        side, place = packed
        sides.append(side)
    count = prod(sides)
    if min(sides) < 1 or count < _SMALLEST or place + 4 * count > len(data):
        return None
    return place, count


def _packed(data: bytearray, place: int) -> tuple[int, int] | None:
    """A packed integer and where it ends; None for what is none."""
    if place >= len(data):
        return None
    control = data[place]
    length = control & 0x0F
    if not 1 <= length <= 8 or control & 0x70 or place + length >= len(data):
        return None
    value = int.from_bytes(data[place + 1 : place + 1 + length], "little")
    return (-value if control & 0x80 else value), place + 1 + length
