"""Other people's pickles, read without running anything that they ask for.

Python's unpickler calls what a file names. This one is a machine of its own for pickle's opcodes
(parsed by `pickletools`, which runs nothing): it knows plain values and a list of names, each
standing for a function here, and refuses all else. It imports nothing, calls nothing else, sets no
attribute and looks none up, so neither REDUCE nor BUILD has anything to turn against us. Keys and
members of sets are plain, so that no nest of tuples is hashed for ever.

Two lists of names: `NVIDIA` (StyleGAN2-ADA's pickles, which carry source code that the usual
unpickler would execute; here it is data and dropped) and `NUMPY` (a dictionary of arrays).
"""

import math
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from mmap import mmap
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deid.errors import DeidError
from deid.worlds.ffhq.tensors import load_storage

MAX_OPCODES = 2_000_000
"""NVIDIA's files have about a tenth of that; a bomb made of opcodes ends here."""

Handler = Callable[..., Any]
AllowList = Mapping[tuple[str, str], Handler]
"""(module, name) as a pickle says it → what stands for it here."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Module:
    """What is left of a network in NVIDIA's pickle: its class's name and its state."""

    class_name: str
    state: Mapping[str, Any]


class _Mark:
    """Where a list of arguments begins on the stack."""


@dataclass(frozen=True)
class _Name:
    """An allowed name, not called yet."""

    text: str
    handler: Handler


@dataclass
class _DType:
    """numpy.dtype: a kind and width such as `f4`; BUILD tells the byte order."""

    code: str
    order: str = "<"

    def build(self, state: Any) -> None:
        order = _require(tuple, state, "a dtype's state")[1]
        if order not in ("<", ">", "|", "="):
            raise DeidError("a dtype of unknown byte order")
        self.order = order

    def decode(self, data: Any, count: int) -> NDArray[Any]:
        raw = data.encode("latin-1") if isinstance(data, str) else _require(bytes, data, "numbers")
        dtype = np.dtype(self.order + self.code)
        if len(raw) != count * dtype.itemsize:
            raise DeidError(f"{len(raw)} bytes where {count} numbers of {dtype} were said to be")
        return np.frombuffer(raw, dtype).astype(dtype.newbyteorder("="))


@dataclass
class _Array:
    """numpy.ndarray, empty until BUILD."""

    value: NDArray[Any] | None = None

    def build(self, state: Any) -> None:
        _, shape, dtype, fortran, data = _require(tuple, state, "an array's state")
        sizes = _sizes(shape)
        flat = _require(_DType, dtype, "an array's dtype").decode(data, math.prod(sizes))
        self.value = flat.reshape(sizes, order="F" if fortran else "C")


def read_pickle(data: bytes | mmap, allowed: AllowList) -> Any:
    """The value in a pickle; arrays, tensors, `Module`s and plain values.

    Raises DeidError for any name outside `allowed`, any opcode that could do more than build plain
    values, and anything damaged. Nothing in the file is executed, whatever it is.
    """
    try:
        return _plain(_Machine(allowed).run(data))
    except DeidError:
        raise
    except Exception as error:  # whatever a crafted file sets off, it is refused
        detail = " ".join(str(error).split())[:120]
        raise DeidError(f"a damaged pickle ({type(error).__name__}: {detail})") from None


class _Machine:
    """Pickle's stack and memo. `_simple` opcodes push their argument; others have a method."""

    def __init__(self, allowed: AllowList) -> None:
        self.allowed = allowed
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes | mmap) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(cast(bytes, data))):
            if count >= MAX_OPCODES:
                raise DeidError(f"a pickle of more than {MAX_OPCODES:,} steps; refused")
            if opcode.name == "STOP":
                return self._only()
            self._step(opcode.name, argument)
        raise DeidError("a pickle without an end")

    def _only(self) -> Any:
        if len(self.stack) != 1:
            raise DeidError(f"a damaged pickle: {len(self.stack)} values left at its end")
        return self.stack[0]

    def _step(self, name: str, argument: Any) -> None:
        if name in _ARGUMENT:
            self.stack.append(argument)
        elif name in _FRESH:
            self.stack.append(_FRESH[name]())
        elif name in _TUPLES:
            count = _TUPLES[name]
            self.stack[-count:] = [tuple(self.stack[-count:])]
        elif name in _PUT:
            self.memo[len(self.memo) if name == "MEMOIZE" else int(argument)] = self._top()
        elif name in _GET:
            self.stack.append(self.memo[int(argument)])
        elif name in _METHODS:
            _METHODS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise DeidError(f"the pickle step {name} is refused: it can do more than hold weights")

    def _top(self) -> Any:
        if not self.stack or isinstance(self.stack[-1], _Mark):
            raise DeidError("a damaged pickle: a value is missing")
        return self.stack[-1]

    def _pop(self) -> Any:
        value = self._top()
        self.stack.pop()
        return value

    def _since_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if isinstance(self.stack[index], _Mark):
                values = self.stack[index + 1 :]
                del self.stack[index:]
                return values
        raise DeidError("a damaged pickle: a mark is missing")

    def _discard(self, _: Any) -> None:
        if not self.stack:
            raise DeidError("a damaged pickle: a value is missing")
        self.stack.pop()

    def _append(self, _: Any) -> None:
        value = self._pop()
        _require(list, self._top(), "a list").append(value)

    def _appends(self, _: Any) -> None:
        values = self._since_mark()
        _require(list, self._top(), "a list").extend(values)

    def _set_item(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        _require(dict, self._top(), "a dictionary")[_key(key)] = value

    def _set_items(self, _: Any) -> None:
        values = self._since_mark()
        _require(dict, self._top(), "a dictionary").update(_pairs(values))

    def _add_items(self, _: Any) -> None:
        values = self._since_mark()
        _require(set, self._top(), "a set").update(map(_key, values))

    def _global(self, argument: Any) -> None:
        self._name(*str(argument).split(" ", 1))

    def _stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        self._name(_require(str, module, "a module"), _require(str, name, "a name"))

    def _name(self, module: str, name: str = "") -> None:
        handler = self.allowed.get((module, name))
        if handler is None:
            asked = f"{module}.{name}"[:80]
            raise DeidError(f"it asks for {asked!r}, which weights have no need of; refused")
        self.stack.append(_Name(f"{module}.{name}", handler))

    def _reduce(self, _: Any) -> None:
        arguments, function = self._pop(), self._pop()
        called = _require(_Name, function, "an allowed name where a pickle calls one")
        self.stack.append(called.handler(*_require(tuple, arguments, "arguments")))

    def _new_with_keywords(self, _: Any) -> None:
        if self._pop():
            raise DeidError("keyword arguments in a pickle; refused")
        self._reduce(None)

    def _build(self, _: Any) -> None:
        state, built = self._pop(), self._top()
        if isinstance(built, _DType | _Array):
            built.build(state)
        elif not (isinstance(built, dict) and isinstance(state, dict | None)):
            raise DeidError("it sets the state of something that has none; refused")
        # An OrderedDict's own attributes (a state dict's `_metadata`) are of no use here.


_ARGUMENT = frozenset(
    (
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
    )
)
_FRESH: Mapping[str, Callable[[], Any]] = {
    "MARK": _Mark,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUT = frozenset(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"))
_GET = frozenset(("GET", "BINGET", "LONG_BINGET"))
_METHODS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "POP": _Machine._discard,
    "POP_MARK": lambda machine, _: machine._since_mark().clear(),
    "DUP": lambda machine, _: machine.stack.append(machine._top()),
    "LIST": lambda machine, _: machine.stack.append(machine._since_mark()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine._since_mark())),
    "DICT": lambda machine, _: machine.stack.append(_pairs(machine._since_mark())),
    "FROZENSET": lambda machine, _: machine.stack.append(set(map(_key, machine._since_mark()))),
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items,
    "ADDITEMS": _Machine._add_items,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "NEWOBJ": _Machine._reduce,  # cls(*args): the same, since no name here is a class
    "NEWOBJ_EX": _Machine._new_with_keywords,
    "BUILD": _Machine._build,
}


def _require(kind: type[_T], value: Any, what: str) -> _T:
    if not isinstance(value, kind):
        raise DeidError(f"a pickle with a {type(value).__name__} instead of {what}; refused")
    return value


def _key(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | bytes):
        return value
    raise DeidError(f"a {type(value).__name__} as a key; refused")


def _pairs(values: list[Any]) -> dict[Any, Any]:
    return dict(zip(map(_key, values[::2]), values[1::2], strict=True))


def _sizes(value: Any) -> tuple[int, ...]:
    sizes = _require(tuple, value, "a shape")
    if len(sizes) > 8 or any(type(size) is not int or size < 0 for size in sizes):
        raise DeidError("a shape that is none; refused")
    return sizes


def _plain(value: Any, depth: int = 0) -> Any:
    """Arrays for the stand-ins, in dictionaries a few deep; a dtype or a name alone is nothing."""
    if isinstance(value, dict) and depth < 4:
        return {key: _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, _Array):
        return value.value
    return None if isinstance(value, _Name | _DType) else value


def _dictionary(*arguments: Any) -> dict[Any, Any]:
    if len(arguments) > 1:
        raise DeidError("a dictionary of more than one argument; refused")
    pairs = _require(list, arguments[0], "pairs") if arguments else []
    return {_key(key): value for key, value in pairs}


def _set(*arguments: Any) -> set[Any]:
    return set(map(_key, *(_require(list, argument, "a list") for argument in arguments or ([],))))


def _module(meta: Any) -> Module:
    """torch_utils.persistence would execute `meta["module_src"]` here."""
    meta = _require(dict, meta, "a network")
    name = _require(str, meta.get("class_name"), "a class's name")
    return Module(name, _require(dict, meta.get("state"), "a network's state"))


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any = False, *_: Any
) -> Tensor:
    """A view of a storage, checked: within it, and no larger than it is."""
    typed = _require(torch.storage.TypedStorage, storage, "a tensor's storage")
    sizes, strides = _sizes(size), _sizes(stride)
    (start,) = _sizes((offset,))
    end = start + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True)) + 1
    length: int = typed._size()  # type: ignore[no-untyped-call]
    if math.prod(sizes) > length or (math.prod(sizes) and end > length):
        raise DeidError("a tensor larger than its storage; refused")
    return torch.empty(0, dtype=typed.dtype).set_(typed._untyped_storage, start, sizes, strides)


def _parameter(data: Any, *_: Any) -> Tensor:
    return _require(Tensor, data, "a parameter's tensor")


def _dtype(code: Any, *_: Any) -> _DType:
    """Numbers and truth values only: an array of objects holds whatever it likes."""
    known = [f"{kind}{width}" for kind in "fiu" for width in (1, 2, 4, 8)] + ["b1"]
    if code not in known or code == "f1":
        raise DeidError("an array of something other than numbers; refused")
    return _DType(code)


def _scalar(dtype: Any, data: Any = b"") -> Any:
    return _require(_DType, dtype, "a number's dtype").decode(data, 1)[0].item()


def _array(*_: Any) -> _Array:
    return _Array()


def _not_called(*_: Any) -> Any:
    raise DeidError("it makes an array in an unusual way; refused")


def _latin1(text: Any, encoding: Any = "") -> bytes:
    """How Python 3 writes bytes into a pickle that Python 2 can read."""
    if encoding not in ("latin1", "latin-1"):
        raise DeidError("bytes in an unknown encoding; refused")
    return _require(str, text, "text").encode("latin-1")


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
