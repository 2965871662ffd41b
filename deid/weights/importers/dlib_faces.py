"""dlib's ResNet recognizer, from the flat tensors of its file."""

from collections.abc import Sequence

from torch import Tensor

from deid.errors import DeidError
from deid.nets.dlib_resnet import DlibResNet

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
