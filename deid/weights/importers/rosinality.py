"""rosinality/stylegan2-pytorch: `g_ema`, in files for training beside `g`, `d`, optimizers, `args`.

StyleGAN2 here follows its numerics, so tensors are renamed and reshaped only. Its `550000.pt` has
neither noise nor a mean w; both are filled (`layout`).
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from deid.weights.importers.base import Format, Imported
from deid.weights.importers.layout import Rule, part, renamed, stylegan2

_CONVOLUTION = {
    "conv.weight": "weight",
    "conv.modulation.weight": "style.weight",
    "conv.modulation.bias": "style.bias",
    "noise.weight": "noise_strength",
    "activate.bias": "bias",
    "bias": "bias",
}
_STYLEGAN2: tuple[Rule, ...] = (
    (r"style\.(\d+)\.(\w+)", lambda m: f"mapping_network.layers.{int(m[1]) - 1}.{m[2]}"),
    (r"input\.input", lambda m: "constant"),
    (r"conv1\.([\w.]+)", lambda m: f"convolutions.0.{_CONVOLUTION.get(m[1], m[1])}"),
    (r"convs\.(\d+)\.([\w.]+)", lambda m: _numbered_name("convolutions", m)),
    (r"to_rgb1\.([\w.]+)", lambda m: f"to_rgb.0.{_CONVOLUTION.get(m[1], m[1])}"),
    (r"to_rgbs\.(\d+)\.([\w.]+)", lambda m: _numbered_name("to_rgb", m)),
    (r"noises\.noise_(\d+)", lambda m: f"convolutions.{m[1]}.noise"),
)


def _numbered_name(stem: str, match: re.Match[str]) -> str:
    return f"{stem}.{int(match[1]) + 1}.{_CONVOLUTION.get(match[2], match[2])}"


def _stylegan2_part(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return part(content, ("g_ema",), "conv1.conv.modulation.weight")


def _stylegan2(content: Mapping[str, Any]) -> Imported:
    state = renamed(_stylegan2_part(content) or {}, _STYLEGAN2, taps=(1, 3, 3, 1))
    if isinstance(content.get("latent_avg"), Tensor):
        state["w_mean"] = content["latent_avg"].float()
    return stylegan2(state)


ROSINALITY_FORMATS = (
    Format(
        "rosinality StyleGAN2",
        lambda content: _stylegan2_part(content) is not None,
        _stylegan2,
    ),
)
