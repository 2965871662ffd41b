"""What an importer is: one public file format → the state of one of our networks."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deid.errors import DeidError
from deid.weights.pickles import COPIES, SPARE

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Imported:
    """A checkpoint in our own terms: plain data, no code, no foreign names.

    `network` names a builder in `deid.weights.importers.NETWORKS`, `config` holds its keyword
    arguments, inferred from shapes, and `state` fits what it builds, strictly. `notes` say by which
    rule a part that the file lacks was filled.
    """

    network: str
    config: Mapping[str, Any]
    state: Mapping[str, Tensor]
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Format:
    """A public layout. `matches` looks at a file's content as it was read (nested dictionaries of
    tensors and plain values); `convert` raises `DeidError` where a part is missing or misshapen."""

    name: str
    matches: Callable[[Mapping[str, Any]], bool]
    convert: Callable[[Mapping[str, Any]], Imported]


def weight(name: str, value: Any) -> Tensor:
    """A tensor or array of a file, not copied; DeidError unless it is one of floating-point numbers
    and not empty."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        value = torch.from_numpy(value)
    if not isinstance(value, Tensor):
        kind = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else "not a tensor"
        raise DeidError(f"{name!r} is {kind}; weights are floating-point numbers")
    if value.dtype not in _FLOATS or value.layout != torch.strided:
        kind = str(value.dtype).removeprefix("torch.")
        raise DeidError(f"{name!r} holds {kind}; weights are floating-point numbers")
    if value.numel() == 0:
        raise DeidError(f"{name!r} is empty")
    return value.detach()


def weights(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """All as `weight` has it. DeidError where copies of them would need far more memory than the
    file's numbers: a tensor may stand under many names."""
    found = {name: weight(name, value) for name, value in content.items()}
    require_own(found.values())
    return found


def require_own(tensors: Iterable[Tensor]) -> None:
    """DeidError where float32 copies of all would need far more memory than what they are of."""
    stored: dict[int, int] = {}
    needed = 0
    for tensor in tensors:
        storage = tensor.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes()
        needed += 4 * tensor.numel()
    if needed > COPIES * sum(stored.values()) + SPARE:
        raise DeidError("its tensors are far more than the numbers in it; refused")
