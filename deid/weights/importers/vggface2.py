"""VGGFace2's ResNet-50: cydonia999's pickles and Oxford's own files → `vggface2_resnet50`.

Cydonia's have torchvision's names and a classifier `fc[8631,2048]`, by which they are told from an
ImageNet ResNet-50. Oxford's have Caffe's names (`conv2_1_1x1_reduce`); their 128-D and 256-D
variants end in `feat_extract`. The classifiers are dropped.
"""

import re
from collections.abc import Mapping
from typing import Any

from deid.errors import DeidError
from deid.weights.importers.base import Format, Imported
from deid.weights.importers.states import (
    State,
    completed,
    shape_of,
    size_of,
    stages,
    state_of,
    without,
)

IDENTITIES = 8631
_OXFORD = re.compile(r"conv(\d)_(\d+)_(1x1_reduce|3x3|1x1_increase|1x1_proj)(_bn)?\.(\w+)")
_PARTS = {"1x1_reduce": "1", "3x3": "2", "1x1_increase": "3"}


def _is_cydonia(content: Mapping[str, Any]) -> bool:
    shape = shape_of(content, "fc.weight")
    bottleneck = shape_of(content, "layer1.0.conv3.weight") is not None
    return bottleneck and shape is not None and shape[0] == IDENTITIES


def _from_cydonia(content: Mapping[str, Any]) -> Imported:
    return _imported(without(state_of(content), "fc."))


def _is_oxford(content: Mapping[str, Any]) -> bool:
    return shape_of(content, "conv2_1_1x1_reduce.weight") is not None


def _from_oxford(content: Mapping[str, Any]) -> Imported:
    named = without(state_of(content), "classifier.")
    return _imported({_our_name(name): value for name, value in named.items()})


def _our_name(name: str) -> str:
    """Caffe's name → torchvision's: `conv2_1_3x3_bn.weight` → `layer1.0.bn2.weight`."""
    for stem, ours in (("conv1_7x7_s2_bn.", "bn1."), ("conv1_7x7_s2.", "conv1.")):
        if name.startswith(stem):
            return ours + name.removeprefix(stem)
    found = _OXFORD.fullmatch(name)
    if found is None:
        return name  # feat_extract; anything else is refused later, by name
    stage, block, part, norm, leaf = found.groups()
    if part == "1x1_proj":
        layer = f"downsample.{1 if norm else 0}"
    else:
        layer = f"{'bn' if norm else 'conv'}{_PARTS[part]}"
    return f"layer{int(stage) - 1}.{int(block) - 1}.{layer}.{leaf}"


def _imported(state: State) -> Imported:
    config: dict[str, Any] = {
        "blocks": stages(state),
        "width": size_of(state, "conv1.weight", 0),
    }
    if not config["blocks"]:
        raise DeidError("no residual stages in it; fetch the file again")
    if "feat_extract.weight" in state:
        config["reduced"] = size_of(state, "feat_extract.weight", 0)
        config["reduced_bias"] = "feat_extract.bias" in state
    return Imported("vggface2_resnet50", config, completed(state), ("the classifier was dropped",))


VGGFACE2_FORMATS = (
    Format("VGGFace2 ResNet-50 (cydonia999)", _is_cydonia, _from_cydonia),
    Format("VGGFace2 ResNet-50 (Oxford)", _is_oxford, _from_oxford),
)
