"""Inception-V3: torchvision's ImageNet file and pytorch-fid's → pooled features.

The two have the same names for their trunks. FID's is told by its 1008 classes, torchvision's by
`AuxLogits` or 1000 classes; the classifiers are dropped.
"""

from collections.abc import Mapping
from typing import Any

from deid.weights.importers.base import Format, Imported
from deid.weights.importers.states import completed, shape_of, state_of, without

FID_CLASSES = 1008
NOTES = ("the classifiers were dropped",)


def _is_inception(content: Mapping[str, Any]) -> bool:
    return shape_of(content, "Mixed_7c.branch_pool.conv.weight") is not None


def _is_fid(content: Mapping[str, Any]) -> bool:
    shape = shape_of(content, "fc.weight")
    return _is_inception(content) and shape is not None and shape[0] == FID_CLASSES


def _from_fid(content: Mapping[str, Any]) -> Imported:
    state = without(state_of(content), "fc.")
    return Imported("fid_inception", {}, completed(state), NOTES)


def _from_torchvision(content: Mapping[str, Any]) -> Imported:
    state = without(state_of(content), "fc.", "AuxLogits.")
    return Imported("inception_v3", {}, completed(state), NOTES)


INCEPTION_FORMATS = (
    Format("FID Inception (pytorch-fid)", _is_fid, _from_fid),
    Format("Inception-V3 (torchvision)", _is_inception, _from_torchvision),
)
"""FID's first: torchvision's is whatever other Inception-V3 there is."""
