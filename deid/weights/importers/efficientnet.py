"""EfficientNet-Lite0 in lukemelas/EfficientNet-PyTorch's names, which are ours."""

from collections.abc import Mapping
from typing import Any

from deid.weights.importers.base import Format, Imported
from deid.weights.importers.states import completed, shape_of, state_of, without


def _matches(content: Mapping[str, Any]) -> bool:
    """Lite has no squeeze-and-excitation."""
    names = ("_conv_stem.weight", "_blocks.15._project_conv.weight")
    return all(shape_of(content, name) is not None for name in names) and (
        shape_of(content, "_blocks.0._se_reduce.weight") is None
    )


def _convert(content: Mapping[str, Any]) -> Imported:
    state = completed(without(state_of(content), "_fc."))
    return Imported("efficientnet_lite0", {}, state, ("left out: the classifier",))


EFFICIENTNET_FORMATS = (Format("EfficientNet-Lite0", _matches, _convert),)
