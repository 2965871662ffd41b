"""MobileStyleGAN as `random-face` packs it: two OpenVINO networks, mapping and synthesis.

Layers are found by the names that the export kept (`m.layers.3.conv1…`); what it left nameless, by
what they feed. Constant factors are folded into the affine maps that they scale.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from deid.errors import DeidError
from deid.weights.importers.base import Format, Imported
from deid.weights.onnx_graph import Graph, Node
from deid.weights.openvino import KEY

State = dict[str, Tensor]


def mapping_state(graph: Graph) -> State:
    """`StyleMapping`'s weights: the matrices in the order of the chain, each with its bias."""
    products = [node for node in graph.nodes if node.op == "MatMul"]
    state: State = {}
    for index, product in enumerate(products):
        weight = graph.constant(product.inputs[1])
        state[f"layers.{index}.weight"] = weight
        state[f"layers.{index}.bias"] = _bias_after(graph, product, len(weight))
    return state


def synthesis_state(graph: Graph) -> State:
    """`MobileSynthesis`'s weights."""
    state: State = {"constant": graph.constant("m.input.input")}
    state |= _prefixed("start", _full_convolution(graph, "m.conv1"))
    blocks = sum(name.endswith(".up.modulation.weight") for name in graph.constants)
    for index in range(blocks):
        block, layer = f"blocks.{index}", f"m.layers.{index}"
        state |= _prefixed(f"{block}.style", _style(graph, f"{layer}.up"))
        state |= _prefixed(f"{block}.first", _separable(graph, f"{layer}.conv1"))
        state |= _prefixed(f"{block}.second", _separable(graph, f"{layer}.conv2"))
    last = f"m.layers.{blocks - 1}.to_img"
    state |= _prefixed("to_image.style", _style(graph, f"{last}.conv"))
    state["to_image.convolution.weight"] = graph.constant(f"{last}.conv.weight")
    state["to_image.convolution.bias"] = graph.constant(f"{last}.bias").flatten()
    return state


def _full_convolution(graph: Graph, name: str) -> State:
    """The one 3×3 at 4 px, whose weight is nameless: the convolution before its bias is added."""
    add = _only(graph, f"{name}.bias")
    convolution = next(node for node in _upstream(graph, add) if node.op == "Convolution")
    return _styled(graph, name, convolution)


def _separable(graph: Graph, name: str) -> State:
    depthwise = _only(graph, f"{name}.conv.weight_dw")
    filters = graph.constant(f"{name}.conv.weight_dw")  # [C,1,1,3,3]
    pointwise = _only(graph, depthwise.outputs[0])
    return {"depthwise.weight": filters[:, 0], **_styled(graph, name, pointwise)}


def _styled(graph: Graph, name: str, convolution: Node) -> State:
    """A convolution's weight, the noise that is added to it, its bias and its style."""
    noise = _only(graph, convolution.outputs[0])
    return {
        **_prefixed("style", _style(graph, f"{name}.conv")),
        "convolution.weight": graph.constant(convolution.inputs[1]),
        "convolution.bias": graph.constant(f"{name}.bias").flatten(),
        "noise": graph.constant(noise.inputs[1]),
    }


def _style(graph: Graph, name: str) -> State:
    """An affine map from w, times the constant that follows it where there is one."""
    weight = graph.constant(f"{name}.modulation.weight")
    bias = graph.constant(f"{name}.modulation.bias").flatten()
    reshaped = _reshaped(graph, _only(graph, f"{name}.modulation.bias"))
    after = _only(graph, reshaped.outputs[0])
    factors = [graph.constants[i] for i in after.inputs if i in graph.constants]
    factor = factors[0].item() if after.op == "Multiply" and factors else 1.0
    return {"weight": weight * factor, "bias": bias * factor}


def _reshaped(graph: Graph, affine: Node) -> Node:
    """The reshape to `[N,C,1,1]`; beside it only the shape of the affine map's output is read."""
    return next(n for n in graph.consumers(affine.outputs[0]) if n.op == "Reshape")


def _bias_after(graph: Graph, product: Node, width: int) -> Tensor:
    """The vector added to a matrix product, maybe through a reshape."""
    node = next(n for n in graph.consumers(product.outputs[0]) if n.op == "Add")
    for name in node.inputs:
        for source in (name, *_inputs_of(graph, name)):
            if source in graph.constants and graph.constants[source].numel() == width:
                return graph.constants[source].flatten()
    raise DeidError(f"{product.outputs[0]}: no bias of {width} numbers is added to it")


def _inputs_of(graph: Graph, tensor: str) -> tuple[str, ...]:
    return next((node.inputs for node in graph.nodes if tensor in node.outputs), ())


def _upstream(graph: Graph, node: Node) -> Iterator[Node]:
    """The nodes that a chain comes from, nearest first, along first inputs."""
    made = {output: node for node in graph.nodes for output in node.outputs}
    while (before := made.get(node.inputs[0])) is not None:
        yield before
        node = before


def _only(graph: Graph, tensor: str) -> Node:
    consumers = [node for node in graph.consumers(tensor) if node.op != "ShapeOf"]
    if len(consumers) != 1:
        raise DeidError(f"{tensor!r} is read by {len(consumers)} nodes, not one")
    return consumers[0]


def _prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}.{name}": tensor for name, tensor in state.items()}


def _is_mapping(content: Mapping[str, Any]) -> bool:
    kinds = {node.op for node in _graph(content).nodes}
    return "MatMul" in kinds and not any("Convolution" in kind for kind in kinds)


def _is_synthesis(content: Mapping[str, Any]) -> bool:
    return "m.input.input" in _graph(content).constants


def _graph(content: Mapping[str, Any]) -> Graph:
    graph = content.get(KEY)
    return graph if isinstance(graph, Graph) else Graph((), {}, "", "")


def _from_mapping(content: Mapping[str, Any]) -> Imported:
    state = mapping_state(content[KEY])
    config = {"w_dim": len(state["layers.0.bias"]), "layers": len(state) // 2}
    return Imported("style_mapping", config, state)


def _from_synthesis(content: Mapping[str, Any]) -> Imported:
    state = synthesis_state(content[KEY])
    blocks = sum(name.endswith(".second.noise") for name in state)
    widths = [len(state[f"blocks.{index}.second.convolution.bias"]) for index in range(blocks)]
    channels = [len(state["start.convolution.bias"]), *widths]
    w_dim = state["start.style.weight"].shape[1]
    return Imported("mobile_synthesis", {"channels": channels, "w_dim": w_dim}, state)


MOBILE_STYLEGAN_FORMATS = (
    Format("MobileStyleGAN synthesis (OpenVINO)", _is_synthesis, _from_synthesis),
    Format("StyleGAN2 mapping (OpenVINO)", _is_mapping, _from_mapping),
)
