"""InsightFace's ArcFace networks: training state dicts and ONNX exports → `iresnet`.

An export (`w600k_r50.onnx` of buffalo_l) has most batch norms folded into the convolution before
them. A folded one becomes a batch norm here that only adds the bias, so that the network is the
same differentiable `IResNet` whichever file it came from.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from deid.errors import DeidError
from deid.nets.iresnet import SIDE
from deid.weights.importers.base import Format, Imported, require_own, weight
from deid.weights.importers.states import (
    State,
    completed,
    shape_of,
    size_of,
    stages,
    state_of,
)
from deid.weights.onnx_graph import KEY, Graph, Node

EPSILON = 1e-5
"""Of our batch norms."""


def _matches(content: Mapping[str, Any]) -> bool:
    own = ("layer1.0.prelu.weight", "layer1.0.bn3.weight", "features.weight", "fc.weight")
    return all(shape_of(content, name) is not None for name in own)


def _convert(content: Mapping[str, Any]) -> Imported:
    return _imported(state_of(content), ())


def _imported(state: State, notes: tuple[str, ...]) -> Imported:
    blocks = stages(state)
    widths = tuple(size_of(state, f"layer{i + 1}.0.conv2.weight", 0) for i in range(len(blocks)))
    config: dict[str, Any] = {
        "blocks": blocks,
        "widths": widths,
        "dim": size_of(state, "fc.weight", 0),
    }
    return Imported("iresnet", config, completed(state), notes)


def _matches_onnx(content: Mapping[str, Any]) -> bool:
    graph = content.get(KEY)
    if not isinstance(graph, Graph):
        return False
    ops = [node.op for node in graph.nodes]
    linear = [
        graph.constants.get(node.inputs[1])
        for node in graph.nodes
        if node.op == "Gemm" and len(node.inputs) > 1
    ]
    flat = [max(m.shape, default=1) % SIDE**2 == 0 for m in linear if m is not None]
    return ops.count("PRelu") > 4 and flat == [True]


def _convert_onnx(content: Mapping[str, Any]) -> Imported:
    walk = _Walk(content[KEY])
    state = walk.network()
    note = f"{walk.folded} batch norms were folded in the export; here they only add the bias"
    return _imported(state, (note,))


class _Walk:
    """Follows the graph from input to output by what reads what, and collects a state.

    By data flow and not by the order of the nodes, which optimizers of ONNX files change.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.state: State = {}
        self.folded = 0
        self.taken: list[Tensor] = []

    def network(self) -> State:
        """The whole state; the ends of stages are where a block has a projecting shortcut."""
        tensor = self.convolution(self.graph.input, "conv1", "bn1")
        tensor = self.prelu(tensor, "prelu")
        stage, block = 0, 0
        for _ in self.graph.nodes:  # a bound, since a damaged graph may run in circles
            if not (self.find(tensor, "Add") or self.find(tensor, "Conv")):
                break
            strides = self.find(tensor, "Conv") is not None
            stage, block = (stage + 1, 0) if strides else (stage, block + 1)
            tensor = self.block(tensor, f"layer{stage}.{block}", strides)
        tensor = self.norm(tensor, "bn2")
        tensor = self.need(tensor, "Flatten", "Reshape").outputs[0]
        tensor = self.linear(tensor)
        tensor = self.norm(tensor, "features")
        if tensor != self.graph.output:
            raise DeidError(f"the graph goes on after the embedding, at {tensor!r}")
        return self.state

    def block(self, tensor: str, name: str, strides: bool) -> str:
        """One residual block from `tensor` to its sum."""
        inner = self.norm(tensor, f"{name}.bn1")
        inner = self.convolution(inner, f"{name}.conv1", f"{name}.bn2")
        inner = self.prelu(inner, f"{name}.prelu")
        inner = self.convolution(inner, f"{name}.conv2", f"{name}.bn3")
        short = tensor
        if strides:
            short = self.convolution(tensor, f"{name}.downsample.0", f"{name}.downsample.1")
        total = self.need(inner, "Add")
        if set(total.inputs) != {inner, short}:
            raise DeidError(f"{name}: the sum at {total.outputs[0]!r} is not of its two branches")
        return total.outputs[0]

    def find(self, tensor: str, *ops: str) -> Node | None:
        """The one node of these types that reads `tensor`."""
        found = [node for node in self.graph.consumers(tensor) if node.op in ops]
        return found[0] if len(found) == 1 else None

    def need(self, tensor: str, *ops: str) -> Node:
        """As `find`, or DeidError: the graph is not an iResNet's."""
        if (node := self.find(tensor, *ops)) is not None:
            return node
        here = ", ".join(n.op for n in self.graph.consumers(tensor)) or "nothing"
        raise DeidError(f"expected {' or '.join(ops)} after {tensor!r}, found {here}")

    def weights(self, node: Node, *counts: int) -> list[Tensor]:
        """The node's stored constants, of which there must be as many as one of `counts`."""
        if len(node.inputs) - 1 not in counts:
            raise DeidError(f"{node.op} at {node.outputs[0]!r} has {len(node.inputs) - 1} weights")
        found = [weight(name, self.graph.constant(name)) for name in node.inputs[1:]]
        self.taken += found
        require_own(self.taken)  # nodes may share their weights
        return found

    def convolution(self, tensor: str, conv: str, norm: str) -> str:
        """A convolution and its batch norm, folded or not."""
        node = self.need(tensor, "Conv")
        kernel, *bias = self.weights(node, 1, 2)
        self.state[f"{conv}.weight"] = kernel
        if not bias:
            return self.norm(node.outputs[0], norm)
        if self.find(node.outputs[0], "BatchNormalization"):
            raise DeidError(f"{conv}: both a bias and a batch norm; this is another network")
        self.folded += 1
        self.state |= identity_norm(norm, bias[0])
        return node.outputs[0]

    def norm(self, tensor: str, name: str) -> str:
        """A batch norm that the export kept."""
        node = self.need(tensor, "BatchNormalization")
        gain, bias, mean, var = self.weights(node, 4)
        # Our ε may not be the file's; the sum is what counts.
        var = var + (float(node.attributes.get("epsilon", 1e-5)) - EPSILON)
        self.state |= {
            f"{name}.weight": gain,
            f"{name}.bias": bias,
            f"{name}.running_mean": mean,
            f"{name}.running_var": var,
        }
        return node.outputs[0]

    def prelu(self, tensor: str, name: str) -> str:
        """PReLU; ONNX keeps its slopes as `[C,1,1]`."""
        node = self.need(tensor, "PRelu")
        self.state[f"{name}.weight"] = self.weights(node, 1)[0].flatten()
        return node.outputs[0]

    def linear(self, tensor: str) -> str:
        """The embedding's linear layer."""
        node = self.need(tensor, "Gemm")
        matrix, bias = self.weights(node, 2)
        transposed = bool(node.attributes.get("transB", 0))
        self.state |= {"fc.weight": matrix if transposed else matrix.T, "fc.bias": bias}
        return node.outputs[0]


def identity_norm(name: str, bias: Tensor) -> State:
    """A batch norm's state that does nothing but add `bias`: gain 1, mean 0, variance 1 − ε."""
    zero, one = torch.zeros(()), torch.ones(())
    return {
        f"{name}.weight": one.expand(bias.shape),
        f"{name}.bias": bias,
        f"{name}.running_mean": zero.expand(bias.shape),
        f"{name}.running_var": (one - EPSILON).expand(bias.shape),
    }


INSIGHTFACE_FORMATS = (
    Format("iResNet (InsightFace training)", _matches, _convert),
    Format("iResNet (InsightFace ONNX)", _matches_onnx, _convert_onnx),
)
