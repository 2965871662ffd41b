"""torch's own files, read by the restricted unpickler; their storages and tensors.

`torch.load(weights_only=True)` runs no code either, but it gives a small file gigabytes: it calls
`bytearray` with any number, and reads its zip in another way than Python's check of it does.
"""

import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from deid.errors import DeidError
from deid.weights.arrays import NUMBERS, dictionary, sizes_of
from deid.weights.pickles import AllowList, Name, StandIn, key, read_pickle, require

LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
"""How torch's files began before they were zips: a pickle of torch's magic number."""

_PROTOCOL = 1001  # of those files
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}


@dataclass(frozen=True)
class Storage:
    """The numbers that tensors are views of, one-dimensional."""

    numbers: Tensor


@dataclass
class _Options(StandIn):
    """argparse.Namespace, which rosinality's files hold as `args`: read, and dropped."""

    def build(self, state: Any) -> None:
        require(dict, state, "options")

    def plain(self) -> None:
        return None


def tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any = False, *_: Any
) -> Tensor:
    """A view of a storage, checked: within it, and no larger than it is."""
    numbers = require(Storage, storage, "a tensor's storage").numbers
    sizes, strides, (start,) = sizes_of(size), sizes_of(stride), sizes_of((offset,))
    end = start + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True)) + 1
    count = math.prod(sizes)
    if count > len(numbers) or (count and end > len(numbers)):
        raise DeidError("a tensor larger than its storage; refused")
    return numbers.as_strided(sizes, strides, start)


def parameter(data: Any, *_: Any) -> Tensor:
    """torch.nn.Parameter, without its gradient."""
    return require(Tensor, data, "a parameter's tensor")


def _storage_type(*_: Any) -> Any:
    raise DeidError("it makes a storage in an unusual way; refused")


def _shape(size: Any) -> tuple[int, ...]:
    return sizes_of(size if isinstance(size, tuple) else tuple(require(list, size, "a shape")))


def _set(*arguments: Any) -> set[Any]:
    return set(map(key, *(require(list, argument, "a list") for argument in arguments or ([],))))


TENSORS: AllowList = {
    **NUMBERS,
    ("torch._utils", "_rebuild_tensor"): tensor,
    ("torch._utils", "_rebuild_tensor_v2"): tensor,
    ("torch._utils", "_rebuild_parameter"): parameter,
    # Protocol 3 (Python 3.7, NVIDIA's) has no opcode for torch's `_non_persistent_buffers_set`.
    ("builtins", "set"): _set,
    ("__builtin__", "set"): _set,
}
"""What pickles of tensors share."""

_TORCH: AllowList = {
    **TENSORS,
    **{(module, name): _storage_type for module in ("torch", "torch.cuda") for name in _DTYPES},
    ("torch", "Size"): _shape,
    ("argparse", "Namespace"): _Options,
    ("collections", "defaultdict"): lambda *_: dictionary(),
}


def load_torch(source: Path | bytes) -> Any:
    """What `torch.save` wrote: tensors, containers and plain values, nothing else.

    Raises DeidError for anything that would need code to run, anything damaged, and a file that
    promises more numbers than it holds.
    """
    try:
        if isinstance(source, bytes):
            return _load(BytesIO(source), len(source))
        with source.open("rb") as file:
            return _load(file, source.stat().st_size)
    except DeidError as error:
        raise DeidError(f"not a file of weights alone ({error})") from None
    except OSError:
        raise
    except Exception as error:  # whatever a crafted file sets off, it is refused
        detail = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise DeidError(f"a damaged file of weights ({detail})") from None


def load_storage(data: Any) -> Storage:
    """The numbers of a tensor in another pickle, where they are a torch file of their own."""
    if not isinstance(data, bytes):
        raise DeidError("a tensor's numbers that are not bytes; refused")
    return require(Storage, load_torch(data), "the numbers of a tensor")


def _load(data: BinaryIO, size: int) -> Any:
    return _load_legacy(data, size) if data.read(len(LEGACY)) == LEGACY else _load_zip(data, size)


def _load_zip(data: BinaryIO, size: int) -> Any:
    """One pickle, `data.pkl`, and a part for each storage, none compressed."""
    with zipfile.ZipFile(data) as archive:
        parts = {part.filename: part for part in archive.infolist()}
        if len(parts) != len(archive.infolist()):
            raise DeidError("an archive that holds a name twice; refused")
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts.values()):
            raise DeidError("an archive with compressed parts, which torch never writes; refused")
        if sum(part.file_size for part in parts.values()) > size:
            raise DeidError("an archive whose parts overlap; refused")
        found = [name for name in parts if name.endswith("/data.pkl")]
        if len(found) != 1 or found[0].count("/") != 1:
            raise DeidError(f"an archive with {len(found)} lists of tensors (data.pkl), not one")
        root = found[0].removesuffix("data.pkl")
        if f"{root}byteorder" in parts and archive.read(f"{root}byteorder") != b"little":
            raise DeidError("numbers of a big-endian machine; convert them there")

        def numbers(name: str, length: int, dtype: torch.dtype) -> Tensor:
            part = parts[f"{root}data/{name}"]
            if part.file_size != length * dtype.itemsize:
                raise DeidError("a tensor's numbers that are more or fewer than it says; refused")
            return torch.frombuffer(bytearray(archive.read(part)), dtype=dtype)

        return read_pickle(archive.read(found[0]), _TORCH, _Storages(numbers), size)


def _load_legacy(data: BinaryIO, size: int) -> Any:
    """Magic number, protocol, system, the value, the storages' names: pickles; then the numbers."""
    if read_pickle(data, {}, size=size) != _PROTOCOL:
        raise DeidError("a file of another version of torch")
    system = read_pickle(data, {}, size=size)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise DeidError("numbers of a big-endian machine; convert them there")
    left = size

    def numbers(name: str, length: int, dtype: torch.dtype) -> Tensor:
        nonlocal left
        left -= length * dtype.itemsize
        if left < 0:
            raise DeidError("a tensor's numbers that are more than the file holds; refused")
        return torch.empty(length, dtype=dtype)  # filled below: they come after the value

    storages = _Storages(numbers)
    value = read_pickle(data, _TORCH, storages, size)
    names = require(list, read_pickle(data, {}, size=size), "a list of storages")
    if sorted(map(str, names)) != sorted(storages.known):
        raise DeidError("other storages than its tensors are of; refused")
    for name in names:
        wanted = storages.known[str(name)].numbers
        if int.from_bytes(data.read(8), "little") != len(wanted):
            raise DeidError("a tensor's numbers that are more or fewer than it says; refused")
        raw = data.read(wanted.nbytes)
        if len(raw) != wanted.nbytes:
            raise DeidError("it is cut short; fetch it again")
        if raw:
            wanted.copy_(torch.frombuffer(bytearray(raw), dtype=wanted.dtype))
    return value


class _Storages:
    """Persistent identity → storage, each made once by `numbers(name, length, dtype)`."""

    def __init__(self, numbers: Callable[[str, int, torch.dtype], Tensor]) -> None:
        self.numbers = numbers
        self.known: dict[str, Storage] = {}

    def __call__(self, identity: Any) -> Storage:
        kind, type_name, name, _, length, *view = require(tuple, identity, "an identity")
        if kind != "storage" or not isinstance(type_name, Name) or any(view):
            raise DeidError("a part that is not a storage; refused")
        dtype = _DTYPES.get(type_name.text.rpartition(".")[2])
        if dtype is None:
            raise DeidError("a storage of an unknown type; refused")
        (length,) = sizes_of((length,))
        name = str(key(name))
        if name not in self.known:
            empty = torch.empty(0, dtype=dtype)
            self.known[name] = Storage(self.numbers(name, length, dtype) if length else empty)
        found = self.known[name]
        if len(found.numbers) != length or found.numbers.dtype != dtype:
            raise DeidError("a storage that is said to be two; refused")
        return found
