"""LPIPS: torchvision's AlexNet or VGG-16, or the package's whole state → `lpips`.

A torchvision file gives the backbone; the linear heads are then the package's own, version 0.1.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from deid.nets.perceptual import Backbone, lpips
from deid.weights.importers.base import Format, Imported
from deid.weights.importers.states import State, completed, shape_of, state_of, without
from deid.weights.tensors import load_torch

STEMS: Mapping[tuple[int, ...], Backbone] = {(64, 3, 11, 11): "alex", (64, 3, 3, 3): "vgg"}


def _backbone(content: Mapping[str, Any], stem: str) -> Backbone | None:
    return STEMS.get(shape_of(content, stem) or ())


def _is_whole(content: Mapping[str, Any]) -> bool:
    heads = shape_of(content, "lin0.model.1.weight") is not None
    return heads and _backbone(content, "net.slice1.0.weight") is not None


def _from_whole(content: Mapping[str, Any]) -> Imported:
    net = _backbone(content, "net.slice1.0.weight")
    assert net is not None
    return Imported("lpips", {"net": net}, completed(state_of(content)))


def _is_torchvision(content: Mapping[str, Any]) -> bool:
    # A VGG-16 has its last convolution at 28, unless it has batch norms; VGG-19's further layers
    # are refused by name when the state is checked.
    last = {"alex": "features.10.weight", "vgg": "features.28.weight"}
    net = _backbone(content, "features.0.weight")
    return net is not None and len(shape_of(content, last[net]) or ()) == 4


def _from_torchvision(content: Mapping[str, Any]) -> Imported:
    net = _backbone(content, "features.0.weight")
    assert net is not None
    with torch.device("meta"):
        names = list(lpips(net).state_dict())
    # `net.slice2.3.weight` is `features.3.weight`: the package keeps torchvision's numbers.
    places = {name.split(".", 2)[2]: name for name in names if "slice" in name}
    state = _heads(net)
    for name, value in without(state_of(content), "classifier.").items():
        state[places.get(name.removeprefix("features."), name)] = value
    notes = ("linear heads: those of the lpips package, version 0.1", "the classifier was dropped")
    return Imported("lpips", {"net": net}, completed(state), notes)


def _heads(net: Backbone) -> State:
    """All but the backbone, as the package ships it; it names each linear layer twice."""
    import lpips as package
    from lpips.lpips import ScalingLayer

    linear = load_torch(Path(package.__file__).parent / "weights/v0.1" / f"{net}.pth")
    scaling = {f"scaling_layer.{name}": t for name, t in ScalingLayer().state_dict().items()}
    twice = {f"lins.{name.removeprefix('lin')}": tensor for name, tensor in linear.items()}
    return {**linear, **twice, **scaling}


LPIPS_FORMATS = (
    Format("LPIPS (lpips package)", _is_whole, _from_whole),
    Format("LPIPS backbone (torchvision AlexNet or VGG-16)", _is_torchvision, _from_torchvision),
)
