"""Face networks that come as TensorFlow.js weights: HSE_FaceRec, MobileFace, MobileFaceNet_TF, Face
Mesh, face-api.

TensorFlow keeps filters as [height, width, inputs, outputs]; depthwise ones as
[height, width, inputs, 1]; matrices as [inputs, outputs].
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from deid.errors import DeidError
from deid.nets.face_mesh import TRUNK
from deid.nets.hse_face import PLAN
from deid.nets.mobile_face import WIDTHS
from deid.nets.mobilefacenet import PLAN as STAGES
from deid.weights.importers.base import Format, Imported
from deid.weights.importers.states import shape_of

State = dict[str, Tensor]
Tensors = Mapping[str, Tensor]


def hse_face_state(tensors: Tensors) -> State:
    """`HseFaceNet`'s weights; a depthwise filter takes its batch norm's scale into itself."""
    state = _convolution("stem", tensors["conv1/convolution/merged_input"])
    state["stem.bias"] = tensors["conv1_bn/batchnorm_1/sub"]
    for index in range(1, len(PLAN) + 1):
        block, norm = f"blocks.{index - 1}", f"conv_dw_{index}_bn/batchnorm_1"
        filters = _depthwise(tensors[f"conv_dw_{index}/depthwise_kernel"])
        scale = tensors[f"{norm}/mul"]
        state[f"{block}.depthwise.weight"] = filters * scale[:, None, None, None]
        state[f"{block}.depthwise.bias"] = tensors[f"{norm}/sub"]
        pointwise = tensors[f"conv_pw_{index}/convolution/merged_input"]
        state |= _convolution(f"{block}.pointwise", pointwise)
        state[f"{block}.pointwise.bias"] = tensors[f"conv_pw_{index}_bn/batchnorm_1/sub"]
    for ours, theirs in (("hidden", "feats"), ("age", "age_pred"), ("gender", "gender_pred")):
        state[f"{ours}.weight"] = tensors[f"{theirs}/kernel"].T
        state[f"{ours}.bias"] = tensors[f"{theirs}/bias"]
    return state


def mobile_face_state(tensors: Tensors) -> State:
    """`MobileFace`'s weights; the last batch norm goes into the matrix before it."""
    state = _convolution("stem", tensors["conv1_weight"])
    state["act.weight"] = tensors["prelu1_gamma"]
    for index in range(len(WIDTHS)):
        ours, theirs = f"units.{index}", f"stage{index + 1}_unit1"
        state |= _convolution(f"{ours}.widen", tensors[f"{theirs}_conv0_0_weight"])
        layers = (("down", "conv0_1", "prelu0"), ("first", "conv1", "prelu1"))
        for layer, filters, slope in (*layers, ("second", "conv2", "prelu2")):
            state[f"{ours}.{layer}.weight"] = _depthwise(tensors[f"{theirs}_{filters}_df"])
            state[f"{ours}.act_{layer}.weight"] = tensors[f"{theirs}_{slope}_gamma"]
    matrix, scale = tensors["dense/kernel"], tensors["batchnorm0/mul"]
    # Its rows are places by channels, since the flattened map is [height, width, channels].
    by_place = matrix.reshape(-1, WIDTHS[-1], matrix.shape[1]).transpose(0, 1).flatten(0, 1)
    state["project.weight"] = (by_place * scale).T
    state["project.bias"] = tensors["batchnorm0/sub"]
    return state


def mobilefacenet_tf_state(tensors: Tensors) -> State:
    """`MobileFaceNetTf`'s weights. A PReLU's slope is halved and negated there: the converter wrote
    max(x, 0) + (x - |x|) / 2 anew, and lost the sign. (So the original TFLite file says, of whose
    other tensors all are the same.)"""
    body = "MobileFaceNet/MobileFaceNet"
    blocks = [
        (stage, index) for stage, (_, _, count, _) in enumerate(STAGES, 2) for index in range(count)
    ]

    def convolution(ours: str, theirs: str) -> State:
        state = _convolution(ours, tensors[f"{theirs}/Conv2D_weights"])
        return state | {f"{ours}.bias": tensors[f"{theirs}/Conv2D_bn_offset"]}

    def depthwise(ours: str, theirs: str) -> State:
        state = {f"{ours}.weight": _depthwise(tensors[f"{theirs}/depthwise_weights"])}
        return state | {f"{ours}.bias": tensors[f"{theirs}/depthwise_bn_offset"]}

    def slope(ours: str, theirs: str) -> State:
        return {f"{ours}.1.weight": -2 * tensors[f"{theirs}/mul"]}

    state = convolution("stem.0", f"{body}/Conv2d_0") | slope("stem", f"{body}/Conv2d_0")
    first = f"{body}/SeparableConv2d"
    state |= depthwise("filter.0", first) | slope("filter", first)
    state |= convolution("mix", f"{body}/Conv")
    for number, (stage, index) in enumerate(blocks):
        ours, theirs = f"blocks.{number}", f"{body}/Conv2d_{stage}_InvResBlock_{index}"
        wide, narrow = f"{theirs}/Conv", f"{theirs}/Conv_1"
        state |= convolution(f"{ours}.widen.0", wide) | slope(f"{ours}.widen", wide)
        filters = f"{theirs}/SeparableConv2d"
        state |= depthwise(f"{ours}.filter.0", filters) | slope(f"{ours}.filter", filters)
        state |= convolution(f"{ours}.narrow", narrow)
    state |= convolution("widen.0", f"{body}/Conv2d_7") | slope("widen", f"{body}/Conv2d_7")
    ends = "MobileFaceNet/Logits"
    state |= depthwise("gather", f"{ends}/SeparableConv2d")
    state |= convolution("linear", f"{ends}/Conv")
    return state | convolution("project", f"{ends}/LinearConv1x1")


def face_mesh_state(tensors: Tensors) -> State:
    """`FaceMesh`'s weights. Convolutions are numbered in the order of the blocks."""
    root = "StatefulPartitionedCall/model_1"

    def convolution(ours: str, number: int) -> State:
        name = f"{root}/conv2d_{number}/Conv2D"
        state = _convolution(ours, tensors[f"{name}_weights"])
        return state | {f"{ours}.bias": tensors[f"{name}_bn_offset"]}

    def slope(ours: str, number: int) -> State:
        return {f"{ours}.weight": tensors[f"{root}/p_re_lu_{number}/Neg"].flatten()}

    def block(ours: str, number: int, convolved: int) -> State:
        filters = tensors[f"{root}/depthwise_conv2d_{number}/depthwise/ReadVariableOp"]
        state = {f"{ours}.depthwise.weight": _depthwise(filters)}
        return state | convolution(f"{ours}.pointwise", convolved) | slope(f"{ours}.act", convolved)

    blocks = len(TRUNK)
    state = convolution("stem.0", 1) | slope("stem.1", 1)
    for index in range(1, blocks + 1):
        state |= block(f"blocks.{index - 1}", index, index + 1)
    state |= convolution("narrow.0", blocks + 2) | slope("narrow.1", blocks + 2)
    state |= block("last", blocks + 1, blocks + 3)
    last = f"{root}/conv2d_{blocks + 4}"
    state |= _convolution("mesh", tensors[f"{last}/Conv2D/ReadVariableOp"])
    state["mesh.bias"] = tensors[f"{last}/BiasAdd/ReadVariableOp"]
    return state


def face_api_state(tensors: Tensors) -> State:
    """`FaceApiNet`'s weights, for landmarks or expressions."""
    state: State = {}
    for block in range(4):
        for layer in range(4):
            ours, theirs = f"blocks.{block}.layers.{layer}", f"dense{block}/conv{layer}"
            if block == layer == 0:
                state |= _convolution(ours, tensors[f"{theirs}/filters"])
                state[f"{ours}.bias"] = tensors[f"{theirs}/bias"]
                continue
            depthwise = tensors[f"{theirs}/depthwise_filter"]
            state[f"{ours}.depthwise.weight"] = _depthwise(depthwise)
            state |= _convolution(f"{ours}.pointwise", tensors[f"{theirs}/pointwise_filter"])
            state[f"{ours}.pointwise.bias"] = tensors[f"{theirs}/bias"]
    state["head.weight"], state["head.bias"] = tensors["fc/weights"].T, tensors["fc/bias"]
    return state


def _convolution(name: str, filters: Tensor) -> State:
    return {f"{name}.weight": filters.permute(3, 2, 0, 1)}


def _depthwise(filters: Tensor) -> Tensor:
    return filters.permute(2, 3, 0, 1)


def _format(name: str, network: str, mark: str, state: Callable[[Tensors], State]) -> Format:
    """A layout that the tensor called `mark` tells from all others."""

    def convert(content: Mapping[str, Any]) -> Imported:
        return Imported(network, {}, state(content))

    return Format(name, lambda content: shape_of(content, mark) is not None, convert)


def _from_face_api(content: Mapping[str, Any]) -> Imported:
    outputs = shape_of(content, "fc/bias")
    known = {(136,): "face_landmark68", (7,): "face_api_expression"}
    if outputs not in known:
        raise DeidError(f"{outputs} outputs: neither 68 landmarks nor 7 expressions")
    return Imported(known[outputs], {}, face_api_state(content))


TFJS_FORMATS = (
    _format("HSE_FaceRec (TensorFlow.js)", "hse_face", "age_pred/bias", hse_face_state),
    _format("MobileFace (TensorFlow.js)", "mobile_face", "prelu1_gamma", mobile_face_state),
    _format(
        "MobileFaceNet_TF (TensorFlow.js)",
        "mobilefacenet_tf",
        "MobileFaceNet/Logits/LinearConv1x1/Conv2D_weights",
        mobilefacenet_tf_state,
    ),
    _format(
        "Face Mesh (TensorFlow.js)",
        "face_mesh",
        "StatefulPartitionedCall/model_1/p_re_lu_28/Neg",
        face_mesh_state,
    ),
    Format(
        "face-api.js",
        lambda content: shape_of(content, "dense3/conv3/depthwise_filter") is not None,
        _from_face_api,
    ),
)
