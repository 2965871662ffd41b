"""dlib's ResNet recognizer, from the flat tensors of its file."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from deid.errors import DeidError
from deid.nets.dlib_resnet import DlibResNet
from deid.weights.dlib import KEY
from deid.weights.importers.base import Format, Imported

State = dict[str, Tensor]


def dlib_resnet_state(tensors: Sequence[Tensor]) -> State:
    """`DlibResNet`'s weights.

    Each convolution is one tensor, filters then biases; so is each affine layer, scales then
    shifts; the last is the matrix `[256,128]`.
    """
    wanted = DlibResNet().state_dict()
    names = [name.removesuffix(".convolution.weight") for name in wanted]
    convolutions = [name for name, full in zip(names, wanted, strict=True) if name != full]
    if len(tensors) != 2 * len(convolutions) + 1:
        raise DeidError(f"{len(tensors)} tensors instead of {2 * len(convolutions) + 1}")
    state: State = {}
    for index, name in enumerate(convolutions):
        shape = wanted[f"{name}.convolution.weight"].shape
        both, affine = tensors[2 * index], tensors[2 * index + 1]
        filters, outputs = shape.numel(), shape[0]
        state[f"{name}.convolution.weight"] = both[:filters].reshape(shape)
        state[f"{name}.convolution.bias"] = both[filters:]
        state[f"{name}.affine.scale"] = affine[:outputs]
        state[f"{name}.affine.shift"] = affine[outputs:]
    inputs, outputs = wanted["project.weight"].T.shape
    state["project.weight"] = tensors[-1].reshape(inputs, outputs).T
    return state


def _convert(content: Mapping[str, Any]) -> Imported:
    return Imported("dlib_resnet", {}, dlib_resnet_state(content[KEY]))


DLIB_FORMATS = (Format("dlib ResNet recognizer", lambda content: KEY in content, _convert),)
