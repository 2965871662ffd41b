"""NVIDIA's StyleGAN2-ADA pickles (`G_ema`), read by `deid.weights.pickles` without their code.

The same names serve StyleGAN3's repository for its StyleGAN2 networks, and state dicts saved from
any of them. Renaming is all, but for the clamp: only the pickle tells it (`conv_clamp` of a layer),
so a bare state dict has none, unless it says `conv_clamp` beside `G_ema`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from deid.errors import DeidError
from deid.weights.allowed import Module
from deid.weights.importers.base import Format, Imported
from deid.weights.importers.layout import Rule, part, renamed, stylegan2

_NAMES = {"affine": "style", "noise_const": "noise"}


def _convolution(match: re.Match[str]) -> str:
    size, number = int(match[1]), int(match[2])
    return f"convolutions.{2 * (size.bit_length() - 3) + number - 1}.{_leaf(match[3])}"


def _to_rgb(match: re.Match[str]) -> str:
    return f"to_rgb.{int(match[1]).bit_length() - 3}.{_leaf(match[2])}"


def _leaf(name: str) -> str:
    return ".".join(_NAMES.get(word, word) for word in name.split("."))


_RULES: tuple[Rule, ...] = (
    (r"mapping\.w_avg", lambda m: "w_mean"),
    (r"mapping\.fc(\d+)\.(\w+)", lambda m: f"mapping_network.layers.{m[1]}.{m[2]}"),
    (r"synthesis\.b4\.const", lambda m: "constant"),
    (r"synthesis\.b(\d+)\.conv([01])\.([\w.]+)", _convolution),
    (r"synthesis\.b(\d+)\.torgb\.([\w.]+)", _to_rgb),
)


def _generator(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return part(content, ("G_ema",), "synthesis.b4.const")


def _matches(content: Mapping[str, Any]) -> bool:
    return isinstance(content.get("G_ema"), Module) or _generator(content) is not None


def _convert(content: Mapping[str, Any]) -> Imported:
    network = content.get("G_ema")
    clamp = content.get("conv_clamp")
    told = "conv_clamp" in content or isinstance(network, Module)
    if isinstance(network, Module):
        layers = dict(_layers(network))
        theirs: Mapping[str, Any] = _tensors(layers)
        clamp = _clamp(layers)
    else:
        theirs = _generator(content) or {}
    state = renamed(theirs, _RULES, taps=(1, 3, 3, 1))
    notes = () if told else ("conv_clamp: not in the file; none",)
    return stylegan2(state, clamp, notes)


def _layers(network: Module, prefix: str = "") -> Iterator[tuple[str, Module]]:
    """Every module with its name's prefix (`synthesis.b4.`), the network's own first."""
    seen: set[int] = set()
    ahead = [(prefix, network)]
    while ahead:
        prefix, module = ahead.pop()
        # A crafted file may hold a module twice, or within itself: names without end.
        if id(module) in seen:
            raise DeidError(f"a network that holds a part twice, at {prefix!r}")
        seen.add(id(module))
        yield prefix, module
        for name, child in module.items("_modules"):
            if not isinstance(child, Module):
                raise DeidError(f"a network with an invalid part, at {prefix!r}")
            ahead.append((f"{prefix}{name}.", child))


def _tensors(layers: Mapping[str, Module]) -> dict[str, Any]:
    """The state dict, as torch would make it."""
    return {
        f"{prefix}{name}": tensor
        for prefix, module in layers.items()
        for kind in ("_parameters", "_buffers")
        for name, tensor in module.items(kind)
        if tensor is not None
    }


def _clamp(layers: Mapping[str, Module]) -> Any:
    """The one clamp of all layers; DeidError where they say that they are another network."""
    said = [
        module.state.get("conv_clamp")
        for module in layers.values()
        if module.class_name in ("SynthesisLayer", "ToRGBLayer")
    ]
    plain = all(isinstance(value, int | float | None) for value in said)
    if not said or not plain or len({str(value)[:40] for value in said}) != 1:
        raise DeidError("its layers differ in conv_clamp")
    for name, wanted in (("activation", "lrelu"), ("architecture", "skip")):
        if any(
            not isinstance(module.state[name], str) or module.state[name] != wanted
            for prefix, module in layers.items()
            if name in module.state and not prefix.endswith("affine.")
        ):
            raise DeidError(f"its {name} is not {wanted!r} throughout, which is the one known here")
    rates = [
        module.state["bias_gain"]
        for prefix, module in layers.items()
        if prefix.startswith("mapping.fc") and "bias_gain" in module.state
    ]
    if any(not isinstance(rate, float) or rate != 0.01 for rate in rates):
        raise DeidError("its mapping's learning-rate multiplier is not 0.01")
    return said[0]


NVIDIA_FORMATS = (
    Format(
        "NVIDIA StyleGAN2",
        _matches,
        _convert,
    ),
)
