"""rosinality/style-based-gan-pytorch, a StyleGAN1: `g_running` (or `generator`).

It is another function than genforce's: every weight's gain is √2, those of styles and ToRGB too;
the mapping learns at the full rate; a bias is the convolution's, so before the blur; instance
norm's epsilon is 1e-5. Noise is drawn anew for every picture, one for each size: here it is fixed.

The file holds layers for up to 1024 px, whatever it was trained for. Those beyond are as they were
initialized, and a bias that was never trained is exactly zero: that is how the size is told.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from deid.errors import DeidError
from deid.nets.style import GAIN
from deid.weights.importers.base import Format, Imported, weights
from deid.weights.importers.layout import (
    fill_mean,
    fill_noise,
    layer_widths,
    mapping_widths,
    numbered,
    part,
    shaped,
)

_FUSED = "conv1.0.weight"  # a transposed convolution; elsewhere `conv1.1.conv.weight_orig`


def _generator(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    keys = ("g_running", "generator")
    return part(content, keys, "generator.progression.0.conv1.input")


def _convert(content: Mapping[str, Any]) -> Imported:
    theirs = weights(_generator(content) or {})
    biases = numbered(theirs, "generator.to_rgb", "conv.bias")
    trained = [index for index, bias in enumerate(biases) if bool(bias.any())]
    if not trained:
        raise DeidError("no ToRGB layer of it was ever trained, so its size is unknown")
    last = trained[-1]
    state = _mapping(theirs) | _first_block(theirs)
    for block in range(1, last + 1):
        state |= _block(theirs, block)
    weight = _get(theirs, f"generator.to_rgb.{last}.conv.weight_orig")
    state |= {"to_rgb.weight": weight * GAIN, "to_rgb.bias": biases[last].float()}
    state = shaped(state)
    channels = layer_widths(theirs, "generator.to_rgb", "conv.weight_orig")[: last + 1]
    widths = mapping_widths(state)
    sizes = [4 << index // 2 for index in range(2 * len(channels))]
    notes = fill_noise(state, "layers", sizes, shared=True) + fill_mean(state, widths, rate=1.0)
    config = {
        "channels": channels,
        "mapping": widths,
        "mapping_rate": 1.0,
        "epsilon": 1e-5,
        "early_bias": True,
    }
    size = f"{4 << last} px: the largest size whose ToRGB was trained"
    return Imported("stylegan1", config, state, (size, *notes))


def _mapping(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leaky ReLU's gain is on all of the activation here; there on the weight alone."""
    matrices = numbered(theirs, "style", "linear.weight_orig", first=1, step=2)
    biases = numbered(theirs, "style", "linear.bias", first=1, step=2)
    stem = "mapping_network.layers"
    state = {f"{stem}.{i}.weight": matrix.float() for i, matrix in enumerate(matrices)}
    return state | {f"{stem}.{i}.bias": bias.float() / GAIN for i, bias in enumerate(biases)}


def _first_block(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    stem = "generator.progression.0"
    constant = _get(theirs, f"{stem}.conv1.input")
    state = {"constant": constant, "layers.0.bias": torch.zeros(constant.shape[1])}
    return state | _style(theirs, stem, 0) | _second_convolution(theirs, stem, 0)


def _block(theirs: Mapping[str, Tensor], block: int) -> dict[str, Tensor]:
    """The block's doubling convolution and its second one."""
    stem = f"generator.progression.{block}"
    ours = f"convolutions.{2 * block - 1}"
    if f"{stem}.{_FUSED}" in theirs:
        # Stored [in, out], flipped, and divided by 4 when it is used.
        weight = _get(theirs, f"{stem}.{_FUSED}").transpose(0, 1).flip(2, 3) / 4.0
        bias = _get(theirs, f"{stem}.conv1.0.bias")
    else:
        weight = _get(theirs, f"{stem}.conv1.1.conv.weight_orig")
        bias = _get(theirs, f"{stem}.conv1.1.conv.bias")
    state = {f"{ours}.weight": weight, f"{ours}.bias": bias}
    state[f"layers.{2 * block}.bias"] = torch.zeros_like(bias)
    return state | _style(theirs, stem, 2 * block) | _second_convolution(theirs, stem, block)


def _second_convolution(theirs: Mapping[str, Tensor], stem: str, block: int) -> dict[str, Tensor]:
    layer = 2 * block + 1
    return {
        f"convolutions.{2 * block}.weight": _get(theirs, f"{stem}.conv2.conv.weight_orig"),
        f"layers.{layer}.bias": _get(theirs, f"{stem}.conv2.conv.bias"),
        **_style(theirs, stem, layer),
    }


def _style(theirs: Mapping[str, Tensor], stem: str, layer: int) -> dict[str, Tensor]:
    number = layer % 2 + 1
    noise = _get(theirs, f"{stem}.noise{number}.weight_orig").flatten()
    weight = _get(theirs, f"{stem}.adain{number}.style.linear.weight_orig")
    bias = _get(theirs, f"{stem}.adain{number}.style.linear.bias")
    half = torch.arange(len(bias)) < len(bias) // 2
    return {
        f"layers.{layer}.noise_strength": noise * math.sqrt(2.0 / len(noise)),
        f"layers.{layer}.style.weight": weight * GAIN,
        f"layers.{layer}.style.bias": bias - half.float(),  # x · gamma there, x · (s0 + 1) here
    }


def _get(theirs: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in theirs:
        raise DeidError(f"{name!r} is missing")
    return theirs[name].float()


STYLE_BASED_FORMATS = (
    Format(
        "rosinality style-based StyleGAN1",
        lambda content: _generator(content) is not None,
        _convert,
    ),
)
