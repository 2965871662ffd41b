"""Public checkpoints, read safely, in our own networks.

    imported = read_checkpoint(Path("stylegan2-ffhq-256x256.pkl"))
    generator = build(imported)

A format is told by a file's content, never by its name; widths come from shapes. Reading runs no
code from the file (`deid.weights.files`).
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from deid.errors import DeidError
from deid.weights.importers.base import Format, Imported
from deid.weights.importers.faces import FACE_FORMATS, FACE_NETWORKS
from deid.weights.importers.genforce import GENFORCE_FORMATS
from deid.weights.importers.mobile_stylegan import MOBILE_STYLEGAN_FORMATS
from deid.weights.importers.mtcnn import MTCNN_FORMATS
from deid.weights.importers.nvidia import NVIDIA_FORMATS
from deid.weights.importers.rosinality import ROSINALITY_FORMATS
from deid.weights.importers.style_based import STYLE_BASED_FORMATS

FORMATS: tuple[Format, ...] = (
    *ROSINALITY_FORMATS,
    *NVIDIA_FORMATS,
    *GENFORCE_FORMATS,
    *STYLE_BASED_FORMATS,
    *FACE_FORMATS,
    *MTCNN_FORMATS,
    *MOBILE_STYLEGAN_FORMATS,
)
"""Asked in order; at most one matches a file."""

NETWORKS: Mapping[str, str] = {
    "stylegan1": "deid.nets.stylegan1:stylegan1",
    "stylegan2": "deid.nets.stylegan2:stylegan2",
    "style_mapping": "deid.nets.mobile_stylegan:StyleMapping",
    "mobile_synthesis": "deid.nets.mobile_stylegan:MobileSynthesis",
    "mtcnn": "deid.nets.mtcnn:mtcnn_net",
    **FACE_NETWORKS,
}
"""A network's name → where its builder is, `module:function`, imported when it is built. Its
keyword arguments are plain JSON values, since cards hold them."""

CLAMPS = (1e-3, 1e6)
"""The least and the largest `conv_clamp` that is no damage; NVIDIA's files have 256."""

SMALLEST_EPSILON = 1e-5
"""Of the batch norms. An export folds another epsilon into its variances (`insightface`), so zero
may have become less than zero by as much."""


def read_checkpoint(path: Path) -> Imported:
    """A public checkpoint file in our own terms, or what `deid weights convert` made of one.

    Raises DeidError naming the file when it cannot be read safely, is of no known format, or a part
    is missing, misshapen or not finite.
    """
    from deid.weights.cards import has_card, read_converted
    from deid.weights.files import read_content

    if not has_card(path):
        return import_content(read_content(path), str(path))
    imported = read_converted(path)
    try:
        check(imported)
    except DeidError as error:
        raise DeidError(f"{path}: does not fit its card ({error}); convert it again") from None
    return imported


def import_content(content: Mapping[str, Any], origin: str) -> Imported:
    """`read_checkpoint` for content that was read already; `origin` names it in errors."""
    name = ""
    try:
        for known in FORMATS:
            if known.matches(content):
                name = f"{known.name} checkpoint: "
                imported = known.convert(content)
                check(imported)
                return imported
    except DeidError as error:
        raise DeidError(f"{origin}: {name}{error}") from None
    except Exception as error:
        # A tensor of a shape, or a part of a kind, that the format never has.
        detail = f"{type(error).__name__}: {error}"[:160]
        raise DeidError(f"{origin}: {name}damaged ({detail})") from None
    names = ", ".join(known.name for known in FORMATS)
    raise DeidError(f"{origin}: no known checkpoint; the formats known are {names}")


def check(imported: Imported) -> None:
    """Raise DeidError unless the state fits the network, every part finite."""
    _fitting(imported)


def build(imported: Imported) -> nn.Module:
    """The network with its weights, frozen and in eval mode; DeidError unless they fit."""
    network = _fitting(imported)
    own = {name: tensor.clone() for name, tensor in imported.state.items()}
    network.load_state_dict(own, strict=True, assign=True)
    if any(tensor.is_meta for tensor in network.buffers()):
        # Constants that the state does not hold. It fits, so the network is as large as the file.
        with torch.random.fork_rng(devices=[]):  # its first weights are no one's random numbers
            network = _builder(imported.network)(**imported.config)
        network.load_state_dict(own, strict=True)
    return network.eval().requires_grad_(False)


class _NoNumbers(TorchFunctionMode):
    """Draws nothing where there is no memory: torch.randn on meta imports sympy, for seconds."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return (torch.empty if func is torch.randn else func)(*args, **(kwargs or {}))


def _fitting(imported: Imported) -> nn.Module:
    """The network that the state fits, without memory for its weights."""
    state, clamp = imported.state, imported.config.get("conv_clamp")
    if clamp is not None and not (type(clamp) in (int, float) and CLAMPS[0] <= clamp <= CLAMPS[1]):
        raise DeidError(f"conv_clamp is {str(clamp)[:40]}, not a number from 0.001 to a million")
    try:
        with torch.device("meta"), _NoNumbers():
            network = _builder(imported.network)(**imported.config)
    except (TypeError, ValueError, ArithmeticError, LookupError, RuntimeError) as error:
        raise DeidError(f"no {imported.network} has this configuration ({error})") from None
    wanted = network.state_dict()
    if missing := sorted(wanted.keys() - state.keys()):
        raise DeidError(f"missing: {_some(missing)}")
    if unknown := sorted(state.keys() - wanted.keys()):
        raise DeidError(f"it has parts that {imported.network} has not: {_some(unknown)}")
    if wrong := [name for name in wanted if state[name].shape != wanted[name].shape]:
        shapes = f"{tuple(state[wrong[0]].shape)} instead of {tuple(wanted[wrong[0]].shape)}"
        raise DeidError(f"wrong shape: {_some(wrong)}; the first is {shapes}")
    if odd := [name for name in wanted if state[name].dtype != wanted[name].dtype]:
        raise DeidError(f"{state[odd[0]].dtype} instead of {wanted[odd[0]].dtype}: {_some(odd)}")
    if odd := [name for name in wanted if not bool(state[name].isfinite().all())]:
        raise DeidError(f"NaN or infinite numbers in {_some(odd)}")
    variances = [name for name in wanted if name.endswith("running_var")]
    if odd := [name for name in variances if bool((state[name] <= -SMALLEST_EPSILON).any())]:
        raise DeidError(f"negative variances in {_some(odd)}")
    return network


def _builder(name: str) -> Callable[..., nn.Module]:
    if name not in NETWORKS:
        raise DeidError(f"no network {name!r}; those known are {', '.join(NETWORKS)}")
    module, function = NETWORKS[name].split(":")
    builder: Callable[..., nn.Module] = getattr(import_module(module), function)
    return builder


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more
