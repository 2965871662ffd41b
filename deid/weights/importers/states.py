"""What importers of plain state dicts share: unwrapping, dropping classifiers, completing."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deid.errors import DeidError
from deid.weights.importers.base import require_own, weights

State = dict[str, Tensor]
COUNTER = "num_batches_tracked"  # of batch norm

MAX_STAGES, MAX_BLOCKS = 8, 100
"""No residual network has more; each block costs time and memory, whatever its weights."""


def state_of(content: Mapping[str, Any]) -> State:
    """The tensors of a checkpoint, whether bare or under `state_dict`, without `module.`.

    NumPy arrays (as the VGGFace2 pickles hold) become tensors; whatever is neither is left out, and
    batch norm's counters are. Nothing is copied.
    """
    inner = content.get("state_dict")
    if isinstance(inner, Mapping):
        content = inner
    named: dict[str, Any] = {}
    for name, value in content.items():
        ours = str(name).removeprefix("module.")
        if isinstance(value, Tensor | np.ndarray) and not ours.endswith(COUNTER):
            if ours in named:
                raise DeidError(f"two tensors are {ours!r}")
            named[ours] = value
    return weights(named)


def shape_of(content: Mapping[str, Any], name: str) -> tuple[int, ...] | None:
    """A tensor's shape in a checkpoint, bare or wrapped as `state_of` takes it; None: not there."""
    inner = content.get("state_dict")
    for source in (inner, content) if isinstance(inner, Mapping) else (content,):
        for key in (name, f"module.{name}"):
            if isinstance(value := source.get(key), Tensor | np.ndarray):
                return tuple(value.shape)
    return None


def without(state: State, *prefixes: str) -> State:
    """The state less what begins with one of `prefixes`."""
    return {name: value for name, value in state.items() if not name.startswith(prefixes)}


def stages(state: State, name: str = "layer") -> tuple[int, ...]:
    """Blocks in each of the stages `layer1`, `layer2`, … by the tensors' names.

    Raises DeidError where a number is left out or there are too many, so that names alone cannot
    ask for a huge network.
    """
    blocks: dict[int, set[int]] = {}
    for key in state:
        if found := re.match(rf"{name}(\d+)\.(\d+)\.", key):
            blocks.setdefault(int(found[1]), set()).add(int(found[2]))
    for stage, wanted in zip(sorted(blocks), range(1, len(blocks) + 1), strict=True):
        if stage != wanted or blocks[stage] != set(range(len(blocks[stage]))):
            raise DeidError(f"the blocks of {name}{wanted} are not numbered without a gap")
        if stage > MAX_STAGES or len(blocks[stage]) > MAX_BLOCKS:
            raise DeidError(f"{len(blocks[stage])} blocks in {name}{stage}: too large to be so")
    return tuple(len(blocks[stage]) for stage in sorted(blocks))


def size_of(state: State, name: str, axis: int) -> int:
    """One side of a tensor that must be there."""
    if name not in state:
        raise DeidError(f"tensor {name} is missing; fetch the file again")
    return state[name].shape[axis]


def completed(state: State) -> State:
    """float32 copies, and batch norm's counters as 0: several formats lack them, nobody reads them.

    Copies, since a view of a file's one large storage would keep all of it in memory.
    """
    require_own(state.values())
    result: State = {}
    for name, value in state.items():
        result[name] = value.to(torch.float32, copy=True).contiguous()
        if name.endswith("running_mean"):
            result[name.removesuffix("running_mean") + COUNTER] = torch.zeros((), dtype=torch.long)
    return result
