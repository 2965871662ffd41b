"""NVIDIA's StyleGAN2-ADA pickles (`G_ema`), read by `deid.worlds.ffhq.pickles` without their code.

The same names serve StyleGAN3's repository for its StyleGAN2 networks, and state dicts saved from
any of them. Renaming is all, but for the clamp: only the pickle tells it (`conv_clamp` of a layer),
so a bare state dict has none, unless it says `conv_clamp` beside `G_ema`.
"""

import re
from collections.abc import Mapping
from typing import Any

from deid.errors import DeidError
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


def _convert(content: Mapping[str, Any]) -> Imported:
    state = renamed(_generator(content) or {}, _RULES, taps=(1, 3, 3, 1))
    clamp = content.get("conv_clamp")
    if clamp is not None and not (isinstance(clamp, int | float) and clamp > 0):
        raise DeidError(f"conv_clamp is {type(clamp).__name__}, not a positive number")
    told = clamp is not None or "conv_clamp" in content
    notes = () if told else ("conv_clamp: not in the file; none",)
    return stylegan2(state, None if clamp is None else float(clamp), notes)


NVIDIA_FORMATS = (
    Format(
        "NVIDIA StyleGAN2",
        lambda content: _generator(content) is not None,
        _convert,
    ),
)
