"""TensorFlow.js weights as plain tensors: a JSON manifest and the file of numbers beside it.

Two kinds of JSON: a graph model's, with a `weightsManifest`, and face-api.js's, which is nothing
but the manifest. The manifest lists name, shape, type and quantization of each tensor in the order
of the numbers. Of a graph only the weights are read: what it computes, our own networks say.
"""

import json
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deid.errors import DeidError
from deid.weights.archives import read_bounded

_MAX_JSON, _MAX_NUMBERS = 16 << 20, 1 << 30  # bytes
_TYPES = {name: np.dtype(name) for name in ("float32", "float16", "int32", "uint16", "uint8")}
_TYPES["bool"] = np.dtype(np.uint8)


def is_tfjs(head: bytes) -> bool:
    """Whether a file that begins so is one of the two kinds of JSON."""
    packed = b"".join(head.split())
    return packed.startswith((b'{"format":"graph-model"', b'[{"weights":['))


def read_tfjs(path: Path) -> dict[str, Tensor]:
    """Name → tensor, floats as float32; in TensorFlow's layouts.

    Raises DeidError for what is no such manifest, or where numbers are missing or left over.
    """
    try:
        groups = _groups(json.loads(read_bounded(path, _MAX_JSON)))
        tensors: dict[str, Tensor] = {}
        for group in groups:
            numbers = b"".join(_numbers(path, name) for name in group["paths"])
            tensors.update(_tensors(group["weights"], numbers))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DeidError(f"a damaged TensorFlow.js manifest ({error}); fetch it again") from None
    return tensors


def _groups(content: Any) -> list[Any]:
    groups = content["weightsManifest"] if isinstance(content, Mapping) else content
    if not isinstance(groups, list) or not groups:
        raise ValueError("no list of weights")
    return groups


def _numbers(manifest: Path, name: str) -> bytes:
    """The file of numbers, which must lie beside the manifest."""
    if PurePath(name).name != name:
        raise ValueError(f"numbers in {name!r}, which is not beside it")
    return read_bounded(manifest.with_name(name), _MAX_NUMBERS)


def _tensors(weights: Any, numbers: bytes) -> Iterator[tuple[str, Tensor]]:
    offset = 0
    for weight in weights:
        shape = [int(side) for side in weight["shape"]]
        quantization = weight.get("quantization")
        dtype = _TYPES[(quantization or weight)["dtype"]]
        size = prod(shape) * dtype.itemsize
        if min(shape, default=1) < 1 or size > len(numbers) - offset:
            raise ValueError(f"{weight['name']}: shape {shape} goes beyond the numbers")
        values = np.frombuffer(numbers, dtype, prod(shape), offset)
        offset += size
        yield weight["name"], torch.from_numpy(_restored(values, quantization).reshape(shape))
    if offset != len(numbers):
        raise ValueError(f"{len(numbers) - offset} bytes are left over")


def _restored(values: Any, quantization: Any) -> Any:
    """A copy, floats as float32: value · scale + min where they are quantized to integers."""
    if quantization and "scale" in quantization:
        scale, least = float(quantization["scale"]), float(quantization["min"])
        return values.astype(np.float32) * np.float32(scale) + np.float32(least)
    return values.astype(np.float32) if values.dtype.kind == "f" else values.copy()
