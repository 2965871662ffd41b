"""The names that a pickle may use, each with what stands for it here (`pickles` reads them).

`NVIDIA`: StyleGAN2-ADA's pickles, which carry source code that the usual unpickler would execute;
here it is text, and dropped. `NUMPY`: a dictionary of arrays.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deid.errors import DeidError
from deid.weights.pickles import AllowList, StandIn, key, require
from deid.weights.tensors import load_storage


@dataclass(frozen=True)
class Module:
    """What is left of a network in NVIDIA's pickle: its class's name and its state."""

    class_name: str
    state: Mapping[str, Any]


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
        sizes = _sizes(shape)
        flat = require(_DType, dtype, "an array's dtype").decode(data, math.prod(sizes))
        self.value = flat.reshape(sizes, order="F" if fortran else "C")

    def plain(self) -> NDArray[Any] | None:
        return self.value


def _sizes(value: Any) -> tuple[int, ...]:
    sizes = require(tuple, value, "a shape")
    if len(sizes) > 8 or any(type(size) is not int or size < 0 for size in sizes):
        raise DeidError("a shape that is none; refused")
    return sizes


def _dictionary(*arguments: Any) -> dict[Any, Any]:
    if len(arguments) > 1:
        raise DeidError("a dictionary of more than one argument; refused")
    pairs = require(list, arguments[0], "pairs") if arguments else []
    return {key(name): value for name, value in pairs}


def _set(*arguments: Any) -> set[Any]:
    return set(map(key, *(require(list, argument, "a list") for argument in arguments or ([],))))


def _module(meta: Any) -> Module:
    """torch_utils.persistence would execute `meta["module_src"]` here."""
    meta = require(dict, meta, "a network")
    name = require(str, meta.get("class_name"), "a class's name")
    return Module(name, require(dict, meta.get("state"), "a network's state"))


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any = False, *_: Any
) -> Tensor:
    """A view of a storage, checked: within it, and no larger than it is."""
    typed = require(torch.storage.TypedStorage, storage, "a tensor's storage")
    sizes, strides = _sizes(size), _sizes(stride)
    (start,) = _sizes((offset,))
    end = start + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True)) + 1
    length: int = typed._size()  # type: ignore[no-untyped-call]
    count: int = math.prod(sizes)
    if count > length or (count and end > length):
        raise DeidError("a tensor larger than its storage; refused")
    return torch.empty(0, dtype=typed.dtype).set_(typed._untyped_storage, start, sizes, strides)


def _parameter(data: Any, *_: Any) -> Tensor:
    return require(Tensor, data, "a parameter's tensor")


def _dtype(code: Any, *_: Any) -> _DType:
    """Numbers and truth values only: an array of objects holds whatever it likes."""
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


_NUMBERS: AllowList = {
    ("collections", "OrderedDict"): _dictionary,
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
}

NVIDIA: AllowList = {
    **_NUMBERS,
    ("dnnlib.util", "EasyDict"): _dictionary,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _module,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.storage", "_load_from_bytes"): load_storage,
    # Protocol 3 (Python 3.7, NVIDIA's) has no opcode for torch's `_non_persistent_buffers_set`.
    ("builtins", "set"): _set,
}
"""NVIDIA's StyleGAN2-ADA and StyleGAN3 pickles."""

NUMPY: AllowList = {
    **_NUMBERS,
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy._core.multiarray", "_reconstruct"): _array,
    ("numpy", "ndarray"): _not_called,
    ("_codecs", "encode"): _latin1,
}
"""A dictionary name → array, of Python 2 (latin1) or 3, such as cydonia's VGGFace2."""
