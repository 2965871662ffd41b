"""An ONNX file as plain data: nodes and tensors. Nothing of it is run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deid.errors import DeidError

KEY = "onnx"
"""The content of an ONNX file is `{KEY: Graph}`."""


@dataclass(frozen=True)
class Node:
    """One operation: its type, the tensors it reads and writes, and its plain attributes."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which they can be run; constants by name, float ones as float32."""

    nodes: tuple[Node, ...]
    constants: Mapping[str, Tensor]
    input: str
    output: str

    @cached_property
    def _readers(self) -> Mapping[str, list[Node]]:
        readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                readers.setdefault(name, []).append(node)
        return readers

    def consumers(self, tensor: str) -> tuple[Node, ...]:
        """The nodes that read a tensor."""
        return tuple(self._readers.get(tensor, ()))

    def constant(self, name: str) -> Tensor:
        """A weight, or DeidError when the name is computed by the graph."""
        if name not in self.constants:
            raise DeidError(f"ONNX tensor {name!r} is not a stored constant")
        return self.constants[name]


def is_onnx(head: bytes) -> bool:
    """Whether a file that begins so may be ONNX: a protocol buffer whose field 1, the IR version,
    is a small number."""
    return len(head) > 2 and head[0] == 0x08 and 0x01 <= head[1] <= 0x20


def read_onnx(path: Path) -> dict[str, Any]:
    """`{KEY: Graph}`. Raises DeidError for what is not ONNX or keeps its tensors in other files."""
    import onnx

    try:
        # What is stored in other files stays unread: their names could lead anywhere.
        return {KEY: _graph(onnx.load_model(str(path), load_external_data=False).graph)}
    except DeidError:
        raise
    except Exception as error:  # protobuf, onnx and NumPy raise many kinds for a damaged file
        detail = f"{type(error).__name__}: {error}"
        raise DeidError(f"not an ONNX file, or a damaged one ({detail}); fetch it again") from None


def _graph(graph: Any) -> Graph:
    constants = {tensor.name: _tensor(tensor) for tensor in graph.initializer}
    same: dict[str, str] = {}  # what Identity, or Dropout in use, merely passes on
    nodes: list[Node] = []
    for raw in graph.node:
        node = _node(raw, same)
        # Exporters name a shared weight twice through Identity, and store small ones as nodes.
        if node.op == "Identity" and node.inputs[0] in constants:
            constants[node.outputs[0]] = constants[node.inputs[0]]
        elif node.op in ("Identity", "Dropout"):
            same[node.outputs[0]] = node.inputs[0]
        elif node.op == "Constant" and isinstance(node.attributes.get("value"), Tensor):
            constants[node.outputs[0]] = node.attributes["value"]
        else:
            nodes.append(node)
    inputs = [value.name for value in graph.input if value.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise DeidError(f"{len(inputs)} inputs and {len(graph.output)} outputs instead of one each")
    output = graph.output[0].name
    return Graph(tuple(nodes), constants, inputs[0], same.get(output, output))


def _node(raw: Any, same: Mapping[str, str]) -> Node:
    from onnx import AttributeProto, helper

    plain = {}
    for attribute in raw.attribute:
        if attribute.type == AttributeProto.TENSOR:
            plain[attribute.name] = _tensor(attribute.t)
        elif attribute.type not in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
            plain[attribute.name] = helper.get_attribute_value(attribute)
    inputs = tuple(same.get(name, name) for name in raw.input)
    return Node(raw.op_type, inputs, tuple(raw.output), plain)


def _tensor(raw: Any) -> Tensor:
    from onnx import TensorProto, numpy_helper

    if raw.data_location == TensorProto.EXTERNAL:
        raise DeidError(f"tensor {raw.name!r} is kept in another file; use a self-contained ONNX")
    array = numpy_helper.to_array(raw)
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
    elif array.dtype.kind not in "biu":
        raise DeidError(f"tensor {raw.name!r} has the unsupported type {array.dtype}")
    return torch.from_numpy(array.copy())
