"""OpenVINO's intermediate representation (IR, version 10) as plain data. Nothing of it is run.

A network is two files of one name: `.xml` lists layers and edges, `.bin` holds the numbers.
"""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import torch
from torch import Tensor

from deid.errors import DeidError
from deid.weights.archives import read_bounded
from deid.weights.onnx_graph import Graph, Node

KEY = "openvino"
"""The content of an IR is `{KEY: Graph}`."""

_MAX_XML, _MAX_NUMBERS = 16 << 20, 2 << 30  # bytes
_TYPES = {
    "f32": torch.float32,
    "f16": torch.float16,
    "i64": torch.int64,
    "i32": torch.int32,
    "u8": torch.uint8,
    "i8": torch.int8,
}


def is_openvino(head: bytes) -> bool:
    """Whether a file that begins so is the XML of an IR."""
    return head.startswith((b'<?xml version="1.0"', b"<net ")) and b"<net " in head


def read_openvino(xml: Path) -> dict[str, Any]:
    """`{KEY: Graph}` of `xml` and the `.bin` beside it.

    A layer's tensor bears the layer's name; of several outputs the second is `name:1` and so on.
    Raises DeidError for what is no IR, is too large, or points outside its numbers.
    """
    root = _parse(read_bounded(xml, _MAX_XML))
    numbers = bytearray(read_bounded(xml.with_suffix(".bin"), _MAX_NUMBERS))
    try:
        return {KEY: _graph(root, numbers)}
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise DeidError(f"a damaged OpenVINO network ({error}); fetch it again") from None


def _parse(data: bytes) -> ET.Element:
    """The XML's root; no declarations of types or entities, which could swell or reach out."""
    try:
        text = data.decode("utf-8")  # given text, the parser heeds no encoding the file claims
        if "<!" in text:
            raise DeidError("an XML file with declarations, which OpenVINO never writes; refused")
        return ET.fromstring(text)
    except (UnicodeDecodeError, ET.ParseError) as error:
        raise DeidError(f"not an XML file ({error}); fetch it again") from None


def _graph(root: ET.Element, numbers: bytearray) -> Graph:
    layers = {layer.attrib["id"]: layer for layer in root.iterfind("layers/layer")}
    sources = _sources(root, layers)
    constants: dict[str, Tensor] = {}
    nodes: list[Node] = []
    for identity, layer in layers.items():
        name, attributes = layer.attrib["name"], _attributes(layer)
        if layer.attrib["type"] == "Const":
            constants[name] = _constant(attributes, numbers)
            continue
        inputs = tuple(
            sources[identity, port.attrib["id"]] for port in layer.iterfind("input/port")
        )
        outputs = tuple(_outputs(layer).values())
        nodes.append(Node(layer.attrib["type"], inputs, outputs, attributes))
    given = [node.outputs[0] for node in nodes if node.op == "Parameter"]
    results = [node.inputs[0] for node in nodes if node.op == "Result"]
    if len(given) != 1 or len(results) != 1:
        raise ValueError(f"{len(given)} inputs and {len(results)} outputs instead of one each")
    inner = tuple(node for node in nodes if node.op not in ("Parameter", "Result"))
    return Graph(inner, constants, given[0], results[0])


def _sources(root: ET.Element, layers: Mapping[str, ET.Element]) -> dict[tuple[str, str], str]:
    """(layer, input port) → the tensor that comes in there."""
    outputs = {identity: _outputs(layer) for identity, layer in layers.items()}
    return {
        (edge.attrib["to-layer"], edge.attrib["to-port"]): outputs[edge.attrib["from-layer"]][
            edge.attrib["from-port"]
        ]
        for edge in root.iterfind("edges/edge")
    }


def _outputs(layer: ET.Element) -> dict[str, str]:
    """Output port → the name of its tensor."""
    name = layer.attrib["name"]
    ports = [port.attrib["id"] for port in layer.iterfind("output/port")]
    return {port: name if i == 0 else f"{name}:{i}" for i, port in enumerate(ports)}


def _attributes(layer: ET.Element) -> dict[str, str]:
    data = layer.find("data")
    return {} if data is None else dict(data.attrib)


def _constant(attributes: Mapping[str, str], numbers: bytearray) -> Tensor:
    """A constant as its shape and place in the numbers say; floats as float32."""
    shape = [int(side) for side in attributes["shape"].split(",") if side.strip()]
    offset, size, dtype = (
        int(attributes["offset"]),
        int(attributes["size"]),
        _TYPES[attributes["element_type"]],
    )
    count = prod(shape)
    if min(shape, default=1) < 1 or count * dtype.itemsize != size:
        raise ValueError(f"a constant of shape {shape} in {size} bytes")
    if not 0 <= offset <= len(numbers) - size:
        raise ValueError("a constant outside the file of numbers")
    tensor = torch.frombuffer(numbers, dtype=dtype, count=count, offset=offset).reshape(shape)
    return tensor.float() if dtype.is_floating_point else tensor
