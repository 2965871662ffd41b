"""Public checkpoints, read safely, in our own networks.

    imported = read_checkpoint(Path("stylegan2-ffhq-256x256.pkl"))
    generator = build(imported)

A format is told by a file's content, never by its name; widths come from shapes. Reading runs no
code from the file (`deid.worlds.ffhq.pickles`).
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from deid.errors import DeidError
from deid.worlds.ffhq.importers.base import Format, Imported
from deid.worlds.ffhq.importers.genforce import GENFORCE_FORMATS
from deid.worlds.ffhq.importers.nvidia import NVIDIA_FORMATS
from deid.worlds.ffhq.importers.rosinality import ROSINALITY_FORMATS

__all__ = ["FORMATS", "NETWORKS", "Format", "Imported", "build", "convert_content"]
__all__ += ["read_checkpoint"]

FORMATS: tuple[Format, ...] = (*ROSINALITY_FORMATS, *NVIDIA_FORMATS, *GENFORCE_FORMATS)
"""Asked in order; at most one matches a file."""

NETWORKS: Mapping[str, str] = {
    "stylegan1": "deid.nets.stylegan1:stylegan1",
    "stylegan2": "deid.nets.stylegan2:stylegan2",
}
"""A network's name → where its builder is, `module:function`, imported when it is built."""


def read_checkpoint(path: Path) -> Imported:
    """A public checkpoint file in our own terms.

    Raises DeidError naming the file when it cannot be read safely, is of no known format, or lacks
    a part.
    """
    from deid.worlds.ffhq.files import read_content

    return convert_content(read_content(path), str(path))


def convert_content(content: Mapping[str, Any], origin: str) -> Imported:
    """Content as it was read → one of our networks; `origin` names it in errors."""
    for known in FORMATS:
        if known.matches(content):
            try:
                return known.convert(content)
            except DeidError as error:
                raise DeidError(f"{origin}: {known.name} checkpoint: {error}") from None
    names = ", ".join(known.name for known in FORMATS)
    raise DeidError(f"{origin}: no known checkpoint format; those known are {names}")


def build(imported: Imported) -> nn.Module:
    """The network with its weights, frozen and in eval mode.

    Raises DeidError when the network is unknown or the state does not fit it, strictly.
    """
    try:
        module, function = NETWORKS[imported.network].split(":")
    except KeyError:
        known = ", ".join(NETWORKS)
        raise DeidError(f"no network {imported.network!r}; those known are {known}") from None
    network: nn.Module = getattr(import_module(module), function)(**imported.config)
    try:
        network.load_state_dict(dict(imported.state), strict=True)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise DeidError(f"weights do not fit {imported.network}: {detail}") from None
    return network.eval().requires_grad_(False)
