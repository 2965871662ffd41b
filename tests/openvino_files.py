"""Small OpenVINO networks, written as the exporter of `random-face` wrote its large ones."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import torch
from torch import Tensor

from deid.nets.mobile_stylegan import (
    MobileStyleGAN,
    MobileSynthesis,
    StyledConvolution,
    StyleMapping,
)
from deid.seeds import torch_generator

_TYPES = {"float32": "f32", "int64": "i64"}
_CONVOLUTION = {"dilations": "1, 1", "auto_pad": "explicit"}


def small_generator() -> MobileStyleGAN:
    """The real one's plan with 8 channels, 64 px; every number drawn by its name."""
    generator = MobileStyleGAN(StyleMapping(8, 2), MobileSynthesis((8,) * 4, 8))
    for name, tensor in generator.state_dict().items():
        spread = 0.1 if name.endswith("noise") else 0.4
        tensor.copy_(torch.randn(tensor.shape, generator=torch_generator(name)) * spread)
    return generator.requires_grad_(False)


class Network:
    """Layers, edges and numbers of one IR in the making."""

    def __init__(self, name: str) -> None:
        self.root = ET.Element("net", name=name, version="10")
        self.layers = ET.SubElement(self.root, "layers")
        self.edges = ET.SubElement(self.root, "edges")
        self.numbers = b""
        self.places: dict[str, tuple[str, str]] = {}  # tensor → layer, port

    def add(self, kind: str, name: str, *inputs: str, outputs: int = 1, **data: str) -> str:
        """A layer; the name of its first output (of the second: `name:1`)."""
        identity = str(len(self.layers))
        layer = ET.SubElement(self.layers, "layer", id=identity, name=name, type=kind)
        layer.set("version", "opset1")
        ET.SubElement(layer, "data", data)
        for side, count in (("input", len(inputs)), ("output", outputs)):
            ports = ET.SubElement(layer, side) if count else None
            for index in range(count):
                port = str(index + (len(inputs) if side == "output" else 0))
                attributes = {"id": port}
                if side == "output":
                    integer = data.get("element_type", "f32").startswith("i")
                    attributes["precision"] = "I64" if integer else "FP32"
                    self.places[name if index == 0 else f"{name}:{index}"] = (identity, port)
                ET.SubElement(ports, "port", attributes)
        for index, tensor in enumerate(inputs):
            layer_id, port = self.places[tensor]
            edge = {"from-layer": layer_id, "from-port": port}
            ET.SubElement(self.edges, "edge", edge | {"to-layer": identity, "to-port": str(index)})
        return name

    def const(self, name: str, values: Any) -> str:
        """A constant, its numbers at the end of the file of numbers."""
        array = np.asarray(values)
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        data = array.tobytes()
        place = {"offset": str(len(self.numbers)), "size": str(len(data))}
        self.numbers += data
        shape = ", ".join(map(str, array.shape))
        kind = _TYPES[str(array.dtype)]
        return self.add("Const", name, element_type=kind, shape=shape, **place)

    def write(self, result: str, folder: Path) -> Path:
        """The two files; the path of the `.xml`."""
        self.add("Result", f"{result}/sink", result, outputs=0)
        path = folder / f"{self.root.attrib['name']}.xml"
        path.write_bytes(b'<?xml version="1.0"?>\n' + ET.tostring(self.root))
        path.with_suffix(".bin").write_bytes(self.numbers)
        return path


def write_mapping(network: StyleMapping, folder: Path) -> Path:
    """For a batch of one z."""
    net, width = Network("MappingNetwork"), str(network.w_dim)
    z = net.add("Parameter", "var", element_type="f32", shape=f"1, {width}")
    square = net.add("Power", "square", z, net.const("two", [[2.0]]))
    axis = net.const("axis", [1])
    mean = net.add("ReduceMean", "mean", square, axis, keep_dims="true")
    mean = net.add("Add", "mean_and_a_bit", mean, net.const("bit", [[1e-8]]))
    root = net.add("Power", "root", mean, net.const("minus_half", [[-0.5]]))
    x = net.add("Multiply", "normal", z, root)
    for index, layer in enumerate(network.layers):
        weight, bias = (_numbers(t) for t in (layer.weight, layer.bias))
        matrix = net.const(f"matrix{index}", weight)
        x = net.add("MatMul", f"product{index}", x, matrix, transpose_a="false", transpose_b="true")
        shape = net.const(f"row{index}", [1, network.w_dim])
        row = net.add("Reshape", f"bias_row{index}", net.const(f"bias{index}", bias), shape)
        x = _leaky(net, net.add("Add", f"sum{index}", x, row))
        x = net.add("Multiply", f"gained{index}", x, net.const(f"gain{index}", [[2.0**0.5]]))
    return net.write(x, folder)


def write_synthesis(generator: MobileSynthesis, folder: Path) -> Path:
    """For a batch of one w."""
    net = Network("SynthesisNetwork")
    net.add("Parameter", "style", element_type="f32", shape=f"1, {generator.w_dim}")
    x = net.const("m.input.input", _numbers(generator.constant))
    x = _styled(net, "m.conv1", generator.start, x)
    for index, block in enumerate(generator.blocks):
        name = f"m.layers.{index}"
        style = _style(net, f"{name}.up", block.style, 1.0)
        modulated = net.add("Multiply", f"{name}.up.modulated", style, x)
        x = _inverse_haar(net, f"{name}.up", modulated, block.style.out_features // 4, 4 << index)
        x = _styled(net, f"{name}.conv1", block.first, x)
        x = _styled(net, f"{name}.conv2", block.second, x)
    last = f"m.layers.{len(generator.blocks) - 1}.to_img"
    style = _style(net, f"{last}.conv", generator.to_image.style, 0.125)
    x = net.add("Multiply", f"{last}.modulated", style, x)
    weight = net.const(f"{last}.conv.weight", _numbers(generator.to_image.convolution.weight))
    x = _convolution(net, "Convolution", f"{last}.convolved", x, weight, 0)
    bias = net.const(f"{last}.bias", _as_map(generator.to_image.convolution.bias))
    x = net.add("Add", f"{last}.biased", x, bias)
    return net.write(_inverse_haar(net, last, x, 3, 4 << len(generator.blocks)), folder)


def _style(net: Network, name: str, style: Any, factor: float) -> str:
    weight = net.const(f"{name}.modulation.weight", _numbers(style.weight) / factor)
    bias = net.const(f"{name}.modulation.bias", _numbers(style.bias)[None] / factor)
    flags = {"transpose_a": "false", "transpose_b": "true"}
    affine = net.add("MatMul", f"{name}.product", "style", weight, **flags)
    affine = net.add("Add", f"{name}.affine", affine, bias)
    shape = net.const(f"{name}.shape", [1, style.out_features, 1, 1])
    shaped = net.add("Reshape", f"{name}.shaped", affine, shape, special_zero="true")
    if factor == 1.0:
        return shaped
    return net.add("Multiply", f"{name}.scaled", shaped, net.const(f"{name}.f", [[[[factor]]]]))


def _styled(net: Network, name: str, layer: StyledConvolution, x: str) -> str:
    style = _style(net, f"{name}.conv", layer.style, 0.03125)
    x = net.add("Multiply", f"{name}.modulated", style, x)
    separable = layer.convolution.kernel_size == (1, 1)
    if separable:
        filters = net.const(f"{name}.conv.weight_dw", _numbers(layer.depthwise.weight)[:, None])
        x = _convolution(net, "GroupConvolution", f"{name}.depthwise", x, filters, 1)
    weight = net.const(f"{name}_copy", _numbers(layer.convolution.weight))
    x = _convolution(net, "Convolution", f"{name}.convolved", x, weight, 0 if separable else 1)
    x = net.add("Add", f"{name}.noisy", x, net.const(f"{name}.noise", _numbers(layer.noise)))
    bias = net.const(f"{name}.bias", _as_map(layer.convolution.bias))
    return _leaky(net, net.add("Add", f"{name}.biased", x, bias))


def _convolution(net: Network, kind: str, name: str, x: str, weight: str, pad: int) -> str:
    pads = {"pads_begin": f"{pad}, {pad}", "pads_end": f"{pad}, {pad}"}
    return net.add(kind, name, x, weight, strides="1, 1", **pads, **_CONVOLUTION)


def _leaky(net: Network, x: str) -> str:
    return net.add("PReLU", f"{x}.leaky", x, net.const(f"{x}.slope", [0.2]))


def _inverse_haar(net: Network, name: str, x: str, channels: int, side: int) -> str:
    """`[1,4C,n,n]` → `[1,C,2n,2n]`: up along columns of pixels, then along rows."""
    axis = net.const(f"{name}.axis", 1)
    lengths = net.const(f"{name}.lengths", [channels, 3 * channels])
    means = net.add("VariadicSplit", f"{name}.split", x, axis, lengths, outputs=2)
    shape = net.const(f"{name}.shape5", [1, channels, 3, side, side])
    details = net.add("Reshape", f"{name}.details", f"{means}:1", shape, special_zero="true")
    axis = net.const(f"{name}.axis2", 2)
    ones = net.const(f"{name}.ones", [1, 1, 1])
    kinds = net.add("VariadicSplit", f"{name}.kinds", details, axis, ones, outputs=3)
    bands = [means]
    for index, kind in enumerate((kinds, f"{kinds}:1", f"{kinds}:2")):
        where = net.const(f"{name}.where{index}", [2])
        bands.append(net.add("Squeeze", f"{name}.band{index}", kind, where))
    low = _merged(net, f"{name}.low", bands[0], bands[1], (channels, 1, 1, 2, 1))
    high = _merged(net, f"{name}.high", bands[2], bands[3], (channels, 1, 1, 2, 1))
    return _merged(net, f"{name}.both", low, high, (channels, 1, 1, 1, 2))


def _merged(net: Network, name: str, low: str, high: str, shape: tuple[int, ...]) -> str:
    """Two bands become one of twice the length along one side."""
    strides, pads = f"{shape[3]}, {shape[4]}", {"pads_begin": "0, 0", "pads_end": "0, 0"}
    ups = []
    for band, sign in ((low, 1.0), (high, -1.0)):
        taps = np.broadcast_to(np.reshape([1.0, sign], shape[3:]), shape) * 0.5**0.5
        filters = net.const(f"{name}.taps{sign:+.0f}", taps)
        kind, options = "GroupConvolutionBackpropData", {**pads, **_CONVOLUTION}
        up = net.add(kind, f"{name}.up{sign:+.0f}", band, filters, strides=strides, **options)
        ups.append(up)
    return net.add("Add", name, *ups)


def _numbers(tensor: Tensor) -> Any:
    return tensor.detach().numpy()


def _as_map(bias: Tensor) -> Any:
    return _numbers(bias)[None, :, None, None]
