"""facenet-pytorch's InceptionResnetV1 (VGGFace2 or CASIA) → `inception_resnet_v1`."""

from collections.abc import Mapping
from typing import Any

from deid.weights.importers.base import Format, Imported
from deid.weights.importers.states import completed, shape_of, size_of, state_of, without


def _matches(content: Mapping[str, Any]) -> bool:
    return shape_of(content, "repeat_1.0.branch0.conv.weight") is not None


def _convert(content: Mapping[str, Any]) -> Imported:
    state = without(state_of(content), "logits.")
    config = {"dim": size_of(state, "last_linear.weight", 0)}
    return Imported(
        "inception_resnet_v1", config, completed(state), ("the classifier was dropped",)
    )


FACENET_FORMATS = (Format("InceptionResnetV1 (facenet-pytorch)", _matches, _convert),)
