"""LPIPS: torchvision's AlexNet or VGG-16, or the package's whole state → `lpips`.

A torchvision file gives the backbone; the linear heads are then the package's own, version 0.1.
"""

from collections.abc import Mapping
from typing import Any

from deid.errors import DeidError
from deid.nets.perceptual import Backbone, lpips
from deid.worlds.ffhq.importers.base import Format, Imported
from deid.worlds.ffhq.importers.states import State, shape_of, state_of, without

STEMS: Mapping[tuple[int, ...], Backbone] = {(64, 3, 11, 11): "alex", (64, 3, 3, 3): "vgg"}
HEADS = ("lin", "scaling_layer.")


def _backbone(content: Mapping[str, Any], stem: str) -> Backbone | None:
    return STEMS.get(shape_of(content, stem) or ())


def _is_whole(content: Mapping[str, Any]) -> bool:
    heads = shape_of(content, "lin0.model.1.weight") is not None
    return heads and _backbone(content, "net.slice1.0.weight") is not None


def _from_whole(content: Mapping[str, Any]) -> Imported:
    net = _backbone(content, "net.slice1.0.weight")
    assert net is not None
    return Imported("lpips", {"net": net}, _fitted(state_of(content), net))


def _is_torchvision(content: Mapping[str, Any]) -> bool:
    # VGG-16 has its last convolution at 28; VGG-19 and those with batch norm do not.
    last = {"alex": "features.10.weight", "vgg": "features.28.weight"}
    net = _backbone(content, "features.0.weight")
    return net is not None and len(shape_of(content, last[net]) or ()) == 4


def _from_torchvision(content: Mapping[str, Any]) -> Imported:
    net = _backbone(content, "features.0.weight")
    assert net is not None
    convolutions = without(state_of(content), "classifier.")
    state: State = {}
    for name, value in lpips(net, heads=True).state_dict().items():
        # `net.slice2.3.weight` is `features.3.weight`: the package keeps torchvision's numbers.
        ours = "features." + name.split(".", 2)[-1] if name.startswith("net.") else name
        state[name] = convolutions.pop(ours, value) if name.startswith("net.") else value
        if name.startswith("net.") and state[name] is value:
            raise DeidError(f"tensor {ours} is missing; fetch the file again")
    if convolutions:
        raise DeidError(f"tensor {min(convolutions)} belongs to another network")
    notes = ("linear heads: those of the lpips package, version 0.1", "the classifier was dropped")
    return Imported("lpips", {"net": net}, _fitted(state, net), notes)


def _fitted(state: State, net: Backbone) -> State:
    """As `states.fitted`; the package's constructor cannot run without memory ("meta")."""
    wanted = lpips(net).state_dict()
    for name, like in wanted.items():
        if name not in state or state[name].shape != like.shape:
            raise DeidError(f"tensor {name} is missing or misshapen; fetch the file again")
    if extra := sorted(set(state) - set(wanted)):
        raise DeidError(f"tensor {extra[0]} belongs to another network ({len(extra)} such)")
    return {name: state[name].to(like.dtype, copy=True) for name, like in wanted.items()}


LPIPS_FORMATS = (
    Format("LPIPS (lpips package)", _is_whole, _from_whole),
    Format("LPIPS backbone (torchvision AlexNet or VGG-16)", _is_torchvision, _from_torchvision),
)
