"""genforce's checkpoints: `generator_smooth` (or `generator`) of StyleGAN1 and StyleGAN2.

StyleGAN1's mapping has its gain on the weight alone, ours on the activation. From 128 px on its
doubling layers run as transposed convolutions, so their weights are flipped here. StyleGAN2's
doubling layers are flipped against rosinality's, and a style's bias lacks the one that is added.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from deid.errors import DeidError
from deid.nets.style import GAIN
from deid.nets.stylegan1 import FUSED_FROM
from deid.weights.importers.base import Format, Imported
from deid.weights.importers.layout import (
    Rule,
    fill_mean,
    fill_noise,
    layer_widths,
    mapping_widths,
    part,
    renamed,
    shaped,
    stylegan2,
)

_KEYS = ("generator_smooth", "generator")
_BOTH: tuple[Rule, ...] = (
    (r"mapping\.dense(\d+)\.(\w+)", lambda m: f"mapping_network.layers.{m[1]}.{m[2]}"),
    (r"truncation\.w_avg", lambda m: "w_mean"),
)
_STYLEGAN2: tuple[Rule, ...] = (
    *_BOTH,
    (r"synthesis\.early_layer\.const", lambda m: "constant"),
    (r"synthesis\.layer(\d+)\.([\w.]+)", lambda m: f"convolutions.{m[1]}.{m[2]}"),
    (r"synthesis\.output(\d+)\.([\w.]+)", lambda m: f"to_rgb.{m[1]}.{m[2]}"),
)
_STYLEGAN1: tuple[Rule, ...] = (
    *_BOTH,
    (r"synthesis\.lod", lambda m: "lod"),
    (r"synthesis\.layer0\.const", lambda m: "constant"),
    (r"synthesis\.layer(\d+)\.weight", lambda m: f"convolutions.{int(m[1]) - 1}.weight"),
    (r"synthesis\.layer(\d+)\.(bias|style\.\w+)", lambda m: f"layers.{m[1]}.{m[2]}"),
    (r"synthesis\.layer(\d+)\.apply_noise\.noise", lambda m: f"layers.{m[1]}.noise"),
    (r"synthesis\.layer(\d+)\.apply_noise\.weight", lambda m: f"layers.{m[1]}.noise_strength"),
    (r"synthesis\.output(\d+)\.(\w+)", lambda m: f"output.{m[1]}.{m[2]}"),
)


def _stylegan2_part(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return part(content, _KEYS, "synthesis.early_layer.const")


def _stylegan1_part(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return part(content, _KEYS, "synthesis.layer0.const")


def _stylegan2(content: Mapping[str, Any]) -> Imported:
    state = renamed(_stylegan2_part(content) or {}, _STYLEGAN2, taps=(1, 3, 3, 1))
    for name, tensor in state.items():
        if name.endswith("style.bias"):
            state[name] = tensor + 1.0
        elif match := re.fullmatch(r"convolutions\.(\d+)\.weight", name):
            state[name] = tensor.flip(2, 3) if int(match[1]) % 2 else tensor
    return stylegan2(state)


def _stylegan1(content: Mapping[str, Any]) -> Imported:
    state = renamed(_stylegan1_part(content) or {}, _STYLEGAN1, taps=(1, 2, 1))
    if "lod" in state and bool(state.pop("lod").any()):
        raise DeidError("its synthesis.lod is not 0: it is not fully grown")
    channels = layer_widths(state, "output", "weight")
    for name in [name for name in state if name.startswith("output.")]:
        tensor = state.pop(name)
        if name.startswith(f"output.{len(channels) - 1}."):
            state[f"to_rgb.{name.rpartition('.')[2]}"] = tensor
    for name, tensor in state.items():
        if re.fullmatch(r"mapping_network\..*\.bias", name):
            state[name] = tensor / GAIN
        elif match := re.fullmatch(r"convolutions\.(\d+)\.weight", name):
            index = int(match[1])
            fused = index % 2 == 1 and 4 << (index + 1) // 2 >= FUSED_FROM
            state[name] = tensor.flip(2, 3) if fused else tensor
    return _finished(state, channels)


def _finished(state: dict[str, Tensor], channels: list[int]) -> Imported:
    state = shaped(state)
    widths = mapping_widths(state)
    sizes = [4 << index // 2 for index in range(2 * len(channels))]
    notes = fill_noise(state, "layers", sizes, shared=False) + fill_mean(state, widths)
    return Imported("stylegan1", {"channels": channels, "mapping": widths}, state, tuple(notes))


def _has(find: Callable[[Mapping[str, Any]], object]) -> Callable[[Mapping[str, Any]], bool]:
    return lambda content: find(content) is not None


GENFORCE_FORMATS = (
    Format("genforce StyleGAN2", _has(_stylegan2_part), _stylegan2),
    Format("genforce StyleGAN1", _has(_stylegan1_part), _stylegan1),
)
