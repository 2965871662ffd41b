"""The names that a pickle of NumPy arrays may use, each with what stands for it here."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deid.errors import DeidError
from deid.weights.pickles import AllowList, StandIn, key, require

LARGEST = 1 << 40
"""No side of an array is as long."""


@dataclass
class _DType(StandIn):
    """numpy.dtype: a kind and width such as `f4`; BUILD tells the byte order."""

    code: str
    order: str = "<"

    def build(self, state: Any) -> None:
        order = require(tuple, state, "a dtype's state")[1]
        if order not in ("<", ">", "|", "="):
            raise DeidError("a dtype of unknown byte order")
        self.order = order

    def plain(self) -> None:
        return None

    def decode(self, data: Any, count: int) -> NDArray[Any]:
        raw = data.encode("latin-1") if isinstance(data, str) else require(bytes, data, "numbers")
        dtype = np.dtype(self.order + self.code)
        if len(raw) != count * dtype.itemsize:
            raise DeidError(f"{len(raw)} bytes where {count} numbers of {dtype} were said to be")
        return np.frombuffer(raw, dtype).astype(dtype.newbyteorder("="))


@dataclass
class _Array(StandIn):
    """numpy.ndarray, empty until BUILD."""

    value: NDArray[Any] | None = None

    def build(self, state: Any) -> None:
        _, shape, dtype, fortran, data = require(tuple, state, "an array's state")
        sizes = sizes_of(shape)
        flat = require(_DType, dtype, "an array's dtype").decode(data, math.prod(sizes))
        self.value = flat.reshape(sizes, order="F" if fortran else "C")

    def plain(self) -> NDArray[Any] | None:
        return self.value


def sizes_of(value: Any) -> tuple[int, ...]:
    """A shape or strides; DeidError unless it is a short tuple of plain sizes."""
    sizes = require(tuple, value, "a shape")
    if len(sizes) > 8 or any(type(size) is not int or not 0 <= size < LARGEST for size in sizes):
        raise DeidError("an invalid shape; refused")
    return sizes


def dictionary(*arguments: Any) -> dict[Any, Any]:
    """An OrderedDict of nothing or of a list of pairs."""
    if len(arguments) > 1:
        raise DeidError("a dictionary of more than one argument; refused")
    pairs = require(list, arguments[0], "pairs") if arguments else []
    return {key(name): value for name, value in pairs}


def _dtype(code: Any, *_: Any) -> _DType:
    """Numbers and truth values only: an array of objects could hold anything."""
    known = [f"{kind}{width}" for kind in "fiu" for width in (1, 2, 4, 8)] + ["b1"]
    if code not in known or code == "f1":
        raise DeidError("an array of something other than numbers; refused")
    return _DType(code)


def _scalar(dtype: Any, data: Any = b"") -> Any:
    return require(_DType, dtype, "a number's dtype").decode(data, 1)[0].item()


def _array(*_: Any) -> _Array:
    return _Array()


def _not_called(*_: Any) -> Any:
    raise DeidError("it makes an array in an unusual way; refused")


def _latin1(text: Any, encoding: Any = "") -> bytes:
    """How Python 3 writes bytes into a pickle that Python 2 can read."""
    if encoding not in ("latin1", "latin-1"):
        raise DeidError("bytes in an unknown encoding; refused")
    return require(str, text, "text").encode("latin-1")


NUMBERS: AllowList = {
    ("collections", "OrderedDict"): dictionary,
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
}
"""Dictionaries and single numbers."""

NUMPY: AllowList = {
    **NUMBERS,
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy._core.multiarray", "_reconstruct"): _array,
    ("numpy", "ndarray"): _not_called,
    ("_codecs", "encode"): _latin1,
}
"""A dictionary name → array, of Python 2 (latin1) or 3, such as cydonia's VGGFace2."""
