"""The shapes of the mini world's networks, untrained."""

from deid.nets.attributes import AttributeRegressor, Trunk
from deid.nets.backbones import Family
from deid.nets.center_net import CenterNet
from deid.nets.landmark import LandmarkNet
from deid.nets.recognizer import Recognizer
from deid.worlds.mini.render.parameters import GROUPS, PARAMETERS

_Shape = tuple[Family, tuple[int, ...], tuple[int, ...]]  # family, channels, blocks of each stage

_RECOGNIZERS: dict[str, _Shape] = {
    "identity": ("resnet", (24, 48, 96, 160), (1, 1, 2, 1)),
    "mobile": ("mobile", (16, 40, 80, 160), (1, 2, 2, 2)),
    "convnext": ("convnext", (48, 96, 192), (2, 2, 2)),
}
HELD_OUT = ("mobile", "convnext")
_TRUNKS: dict[str, _Shape] = {
    "expression": ("resnet", (24, 48, 80, 128), (1, 1, 1, 1)),
    "perceptual": ("resnet", (24, 48, 80, 128), (1, 1, 1, 1)),
    "metric_features": ("mobile", (16, 32, 64, 128), (1, 2, 2, 1)),
}
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "expression": ("expression", "pose", "light"),
    "perceptual": tuple(GROUPS),
    "metric_features": tuple(GROUPS),
}
"""The groups of the renderer's parameters that an attribute network regresses."""


def recognizer(name: str) -> Recognizer:
    """`identity`, `mobile` or `convnext`."""
    return Recognizer(*_RECOGNIZERS[name])


def columns(name: str) -> list[int]:
    """The renderer's parameters that attribute network `name` regresses, in its order."""
    return [i for group in ATTRIBUTES[name] for i in range(PARAMETERS)[GROUPS[group]]]


def attribute_regressor(name: str) -> AttributeRegressor:
    """`expression`, `perceptual` or `metric_features`."""
    return AttributeRegressor(Trunk(*_TRUNKS[name]), len(columns(name)))


def landmark_net() -> LandmarkNet:
    """68 points."""
    return LandmarkNet((16, 48, 64, 96), (1, 1, 2, 1))


def center_net() -> CenterNet:
    """The face detector's network."""
    return CenterNet()
