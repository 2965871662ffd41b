"""Other people's pickles, read without running anything that they ask for: a restricted unpickler.

It interprets pickle's opcodes (parsed by `pickletools`, which runs nothing): it knows plain values
and a list of names, each standing for a function here, and refuses all else. It imports nothing,
calls nothing else, sets no attribute and looks none up. Every step and every number that a call
copies is counted, and no more are allowed than the file's own size explains.

`pickle.Unpickler` with an allow-list in `find_class` is no substitute: it hashes a nest of tuples
forever, and sets attributes of the very functions that it was given (BUILD). Measured: it hangs on
one hostile pickle of `tests/test_ffhq_pickles.py`, and accepts two that change our functions.

The lists of names, and what stands for each, are in `allowed`.
"""

# long: one machine, a few lines for each opcode
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from mmap import mmap
from typing import Any, BinaryIO, TypeVar, cast

from torch import Tensor

from deid.errors import DeidError

MAX_OPCODES = 1_000_000
"""NVIDIA's files have about a fifth of that; a bomb made of opcodes ends here."""

COPIES, SPARE = 4, 1 << 20
"""Calls may copy so many times the file's bytes, and so many more: some files hold a part twice."""

Handler = Callable[..., Any]
AllowList = Mapping[tuple[str, str], Handler]
"""(module, name) as a pickle says it → what stands for it here."""

_T = TypeVar("_T")


class StandIn:
    """Something that a pickle makes first and fills later, with BUILD."""

    def build(self, state: Any) -> None:
        """Take the state; DeidError unless it is what it should be."""
        raise NotImplementedError

    def plain(self) -> Any:
        """What it is in the result."""
        raise NotImplementedError


class _Mark:
    """Where a list of arguments begins on the stack."""


@dataclass(frozen=True)
class Name:
    """An allowed name, not called yet."""

    text: str
    handler: Handler


def read_pickle(
    data: bytes | mmap | BinaryIO,
    allowed: AllowList,
    persistent: Handler | None = None,
    size: int | None = None,
) -> Any:
    """The value in the pickle at the position of `data`; arrays, tensors, `Module`s, plain values.

    `persistent` stands for what a pickle keeps outside of itself, by an identity; None: nothing
    may. `size`: of the whole file, in bytes, where `data` is an open one or a part.

    Raises DeidError for any name outside `allowed`, any opcode that could do more than build plain
    values, more copies than the file explains, and anything damaged. Nothing in the file is
    executed, whatever it is.
    """
    try:
        size = len(cast(bytes, data)) if size is None else size
        machine = _Machine(allowed, persistent, COPIES * size + SPARE)
        return _plain(machine.run(BytesIO(data) if isinstance(data, bytes) else data), {})
    except DeidError:
        raise
    except Exception as error:  # whatever a crafted file sets off, it is refused
        detail = " ".join(str(error).split())[:120]
        raise DeidError(f"a damaged pickle ({type(error).__name__}: {detail})") from None


class _Machine:
    """Pickle's stack and memo; what each opcode does is in the tables below."""

    def __init__(self, allowed: AllowList, persistent: Handler | None, budget: int) -> None:
        self.allowed = allowed
        self.persistent = persistent
        self.budget = budget
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: mmap | BinaryIO) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(cast(BinaryIO, data))):
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
        require(list, self._top(), "a list").append(value)

    def _appends(self, _: Any) -> None:
        values = self._since_mark()
        require(list, self._top(), "a list").extend(values)

    def _set_item(self, _: Any) -> None:
        value, name = self._pop(), self._pop()
        require(dict, self._top(), "a dictionary")[key(name)] = value

    def _set_items(self, _: Any) -> None:
        values = self._since_mark()
        require(dict, self._top(), "a dictionary").update(_pairs(values))

    def _add_items(self, _: Any) -> None:
        values = self._since_mark()
        require(set, self._top(), "a set").update(map(key, values))

    def _global(self, argument: Any) -> None:
        self._name(*str(argument).split(" ", 1))

    def _stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        self._name(require(str, module, "a module"), require(str, name, "a name"))

    def _name(self, module: str, name: str = "") -> None:
        handler = self.allowed.get((module, name))
        if handler is None:
            asked = f"{module}.{name}"[:80]
            raise DeidError(f"it asks for {asked!r}, which no weights need; refused")
        self.stack.append(Name(f"{module}.{name}", handler))

    def _reduce(self, _: Any) -> None:
        arguments, function = self._pop(), self._pop()
        called = require(Name, function, "an allowed name where a pickle calls one")
        self._spend(require(tuple, arguments, "arguments"))
        made = called.handler(*arguments)
        self._spend((made,) if isinstance(made, Tensor) else ())
        self.stack.append(made)

    def _persistent(self, _: Any) -> None:
        if self.persistent is None:
            raise DeidError("a part kept outside of the pickle; refused")
        self.stack.append(self.persistent(self._pop()))

    def _spend(self, copied: tuple[Any, ...]) -> None:
        """Count the numbers, bytes or items that a call copies."""
        for value in copied:
            if isinstance(value, Tensor):
                self.budget -= value.nbytes
            elif isinstance(value, bytes | str | list | tuple | dict | set):
                self.budget -= len(value)
        if self.budget < 0:
            raise DeidError("it asks for far more than its own size holds; refused")

    def _new_with_keywords(self, _: Any) -> None:
        if self._pop():
            raise DeidError("keyword arguments in a pickle; refused")
        self._reduce(None)

    def _build(self, _: Any) -> None:
        state, built = self._pop(), self._top()
        if isinstance(built, StandIn):
            self._spend(state if isinstance(state, tuple) else ())
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
    "FROZENSET": lambda machine, _: machine.stack.append(set(map(key, machine._since_mark()))),
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
    "BINPERSID": _Machine._persistent,
}


def require(kind: type[_T], value: Any, what: str) -> _T:
    """`value`, if it is of that kind; else DeidError saying `what` was wanted."""
    if not isinstance(value, kind):
        raise DeidError(f"a pickle with a {type(value).__name__} instead of {what}; refused")
    return value


def key(value: Any) -> Any:
    """`value`, if it is plain; else DeidError. Hashing a nest of tuples could take forever."""
    if value is None or isinstance(value, str | int | float | bytes):
        return value
    raise DeidError(f"a {type(value).__name__} as a key; refused")


def _pairs(values: list[Any]) -> dict[Any, Any]:
    return dict(zip(map(key, values[::2]), values[1::2], strict=True))


def _plain(value: Any, done: dict[int, Any]) -> Any:
    """Without stand-ins, in dictionaries; a name that was not called is nothing.

    Each dictionary is visited once, however often the pickle holds it, even within itself.
    """
    if isinstance(value, dict):
        if id(value) not in done:
            result = done[id(value)] = {}
            result.update({name: _plain(item, done) for name, item in value.items()})
        return done[id(value)]
    if isinstance(value, StandIn):
        return value.plain()
    return None if isinstance(value, Name) else value
