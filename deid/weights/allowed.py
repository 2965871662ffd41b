"""The names that NVIDIA's pickles may use, each with what stands for it here.

StyleGAN2-ADA's and StyleGAN3's files carry source code that the usual unpickler would execute; here
it is text, and dropped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deid.weights.arrays import dictionary
from deid.weights.pickles import AllowList, require
from deid.weights.tensors import TENSORS, load_storage


@dataclass(frozen=True)
class Module:
    """What is left of a network in NVIDIA's pickle: its class's name and its state."""

    class_name: str
    state: Mapping[str, Any]

    def items(self, kind: str) -> list[tuple[str, Any]]:
        """The named `_parameters`, `_buffers` or `_modules`."""
        return list(require(dict, self.state.get(kind) or {}, f"a network's {kind}").items())


def _module(meta: Any) -> Module:
    """torch_utils.persistence would execute `meta["module_src"]` here."""
    meta = require(dict, meta, "a network")
    name = require(str, meta.get("class_name"), "a class's name")
    return Module(name, require(dict, meta.get("state"), "a network's state"))


NVIDIA: AllowList = {
    **TENSORS,
    ("dnnlib.util", "EasyDict"): dictionary,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _module,
    ("torch.storage", "_load_from_bytes"): load_storage,
}
