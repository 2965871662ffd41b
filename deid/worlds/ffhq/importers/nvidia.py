"""NVIDIA's StyleGAN2-ADA pickles (`G_ema`), read by `deid.worlds.ffhq.pickles` without their code.

The same names serve StyleGAN3's repository for its StyleGAN2 networks, and state dicts saved from
any of them. Renaming is all, but for the clamp: only the pickle tells it (`conv_clamp` of a layer),
so a bare state dict has none, unless it says `conv_clamp` beside `G_ema`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from deid.errors import DeidError
from deid.worlds.ffhq.allowed import Module
from deid.worlds.ffhq.importers.base import Format, Imported
from deid.worlds.ffhq.importers.layout import Rule, part, renamed, stylegan2

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
    if clamp is not None and not (isinstance(clamp, int | float) and clamp > 0):
        raise DeidError(f"conv_clamp is a {type(clamp).__name__}, not a positive number")
    state = renamed(theirs, _RULES, taps=(1, 3, 3, 1))
    notes = () if told else ("conv_clamp: not in the file; none",)
    return stylegan2(state, None if clamp is None else float(clamp), notes)


def _layers(network: Module, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Module]]:
    """Every module with its name's prefix (`synthesis.b4.`), the network's own first."""
    yield prefix, network
    for name, child in (network.state.get("_modules") or {}).items():
        # A crafted file may hold a module within itself: names end somewhere, then.
        if not isinstance(child, Module) or not isinstance(name, str) or depth > 4:
            raise DeidError(f"a network of strange parts, at {prefix!r}")
        yield from _layers(child, f"{prefix}{name}.", depth + 1)


def _tensors(layers: Mapping[str, Module]) -> dict[str, Any]:
    """The state dict, as torch would make it."""
    return {
        f"{prefix}{name}": tensor
        for prefix, module in layers.items()
        for kind in ("_parameters", "_buffers")
        for name, tensor in (module.state.get(kind) or {}).items()
        if tensor is not None
    }


def _clamp(layers: Mapping[str, Module]) -> Any:
    """What the layers say of themselves: one clamp for all; else it is another network."""
    said = [
        module.state.get("conv_clamp")
        for module in layers.values()
        if module.class_name in ("SynthesisLayer", "ToRGBLayer")
    ]
    if not said or any(value != said[0] for value in said):
        raise DeidError("its layers differ in conv_clamp")
    for name, wanted in (("activation", "lrelu"), ("architecture", "skip")):
        found = {
            str(module.state[name])
            for prefix, module in layers.items()
            if name in module.state and not prefix.endswith("affine.")
        }
        if found - {wanted}:
            raise DeidError(f"its {name} is not {wanted!r} throughout, which is the one known here")
    return said[0]


NVIDIA_FORMATS = (
    Format(
        "NVIDIA StyleGAN2",
        _matches,
        _convert,
    ),
)
