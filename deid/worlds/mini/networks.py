"""The shapes of the mini world's networks, untrained."""

from deid.nets.attributes import Trunk
from deid.nets.backbones import Family
from deid.nets.detector import CenterNet
from deid.nets.landmark import LandmarkNet
from deid.nets.recognizer import Recognizer

_RECOGNIZERS: dict[str, tuple[Family, tuple[int, ...], tuple[int, ...]]] = {
    "identity": ("resnet", (24, 48, 96, 160), (1, 1, 2, 1)),
    "mobile": ("mobile", (16, 40, 80, 160), (1, 2, 2, 2)),
    "convnext": ("convnext", (48, 96, 192), (2, 2, 2)),
}
HELD_OUT = ("mobile", "convnext")
_TRUNKS: dict[str, tuple[int, ...]] = {
    "expression": (24, 48, 80, 128),
    "perceptual": (24, 48, 80, 128),
}


def recognizer(name: str) -> Recognizer:
    """`identity`, `mobile` or `convnext`."""
    return Recognizer(*_RECOGNIZERS[name])


def attribute_trunk(name: str) -> Trunk:
    """`expression` or `perceptual`."""
    return Trunk(_TRUNKS[name], (1, 1, 1, 1))


def landmark_net() -> LandmarkNet:
    """68 points."""
    return LandmarkNet((16, 48, 64, 96), (1, 1, 2, 1))


def center_net() -> CenterNet:
    """The face detector's network."""
    return CenterNet()
