"""What an importer is: one public file format → the state of one of our networks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


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
