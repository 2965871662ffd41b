"""MobileFaceNets: foamliu's recognizer (.pt and .onnx) and cunjian's 68 landmarks.

foamliu's ONNX export has every batch norm folded; they become batch norms that only add the bias,
as for InsightFace.
"""

from collections.abc import Mapping
from typing import Any

import torch

from deid.errors import DeidError
from deid.nets.mobilefacenet import MobileFaceNetRecognizer
from deid.weights.importers.base import Format, Imported, weight
from deid.weights.importers.insightface import identity_norm
from deid.weights.importers.states import State, completed, shape_of, size_of, state_of
from deid.weights.onnx_graph import KEY, Graph, Node


def _is_foamliu(content: Mapping[str, Any]) -> bool:
    own = ("gdconv.depthwise.weight", "dw_conv.pointwise.weight")
    return all(shape_of(content, name) is not None for name in own)


def _from_foamliu(content: Mapping[str, Any]) -> Imported:
    return _recognizer(state_of(content), ())


def _recognizer(state: State, notes: tuple[str, ...]) -> Imported:
    config: dict[str, Any] = {
        "dim": size_of(state, "conv3.weight", 0),
        "head": size_of(state, "conv3.weight", 1),
    }
    return Imported("mobilefacenet", config, completed(state), notes)


def _convolutions(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.op == "Conv"]


def _names() -> list[tuple[str, str]]:
    """Each convolution and its batch norm, in the order of the network."""
    with torch.device("meta"):
        return list(MobileFaceNetRecognizer().convolutions())


def _is_foamliu_onnx(content: Mapping[str, Any]) -> bool:
    graph = content.get(KEY)
    if not isinstance(graph, Graph):
        return False
    kinds = {node.op for node in graph.nodes}
    plan = _names()
    return len(_convolutions(graph)) == len(plan) and {"Clip", "Relu", "Add"} <= kinds


def _from_foamliu_onnx(content: Mapping[str, Any]) -> Imported:
    graph: Graph = content[KEY]
    names = _names()
    state: State = {}
    # The network is one chain but for sums, so the order of the convolutions is that of the graph.
    for node, (conv, norm) in zip(_convolutions(graph), names, strict=True):
        if len(node.inputs) != 3:
            raise DeidError(f"{conv}: its batch norm is not folded; export it in eval mode")
        kernel, bias = (weight(name, graph.constant(name)) for name in node.inputs[1:])
        state[f"{conv}.weight"] = kernel
        state |= identity_norm(norm, bias)
    # The last convolution has a bias of its own, into which its batch norm went as well.
    last = names[-1][0]
    state[f"{last}.bias"] = state[f"{last}.weight"].new_zeros(len(state[f"{last}.weight"]))
    note = f"{len(names)} batch norms were folded in the export; here they only add the bias"
    return _recognizer(state, (note,))


def _is_cunjian(content: Mapping[str, Any]) -> bool:
    return shape_of(content, "output_layer.conv_6_dw.conv.weight") is not None


def _from_cunjian(content: Mapping[str, Any]) -> Imported:
    state = state_of(content)
    outputs = size_of(state, "output_layer.linear.weight", 0)
    if outputs != 136:
        raise DeidError(f"{outputs} outputs, not 136: this is no 68-point landmark network")
    return Imported("mobilefacenet68", {}, completed(state))


MOBILEFACENET_FORMATS = (
    Format("MobileFaceNet recognizer (foamliu)", _is_foamliu, _from_foamliu),
    Format("MobileFaceNet recognizer (foamliu ONNX)", _is_foamliu_onnx, _from_foamliu_onnx),
    Format("MobileFaceNet landmarks (cunjian)", _is_cunjian, _from_cunjian),
)
