"""MTCNN of facenet-pytorch: `pnet.pt`, `rnet.pt`, `onet.pt`, plain state dicts (MIT)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from deid.errors import DeidError
from deid.nets.mtcnn import NAMES, mtcnn_net
from deid.weights.importers.base import Format, Imported, weights

# The last layer tells the three apart; its shape shows that it is no other network's.
_MARKS = {"pnet": ("conv4_1", (2, 32, 1, 1)), "rnet": ("dense5_1", (2, 128))}
_MARKS["onet"] = ("dense6_1", (2, 256))


def part_of(content: Mapping[str, Any]) -> str | None:
    """Which of `pnet`, `rnet`, `onet` a file's content is; None for neither."""
    for part, (layer, shape) in _MARKS.items():
        weight = content.get(f"{layer}.weight")
        if (
            isinstance(weight, Tensor)
            and tuple(weight.shape) == shape
            and "prelu1.weight" in content
        ):
            return part
    return None


def convert(content: Mapping[str, Any]) -> Imported:
    """The content of one of the three files; names are the same on both sides."""
    part = part_of(content)
    if part is None:
        raise DeidError(f"is none of {', '.join(NAMES)}")
    wanted = mtcnn_net(part).state_dict()
    own = weights({name: content[name] for name in wanted if name in content})
    state = {name: tensor.float() for name, tensor in own.items()}
    unknown = sorted(set(content) - set(wanted))
    notes = (f"left out: {', '.join(map(str, unknown))}",) if unknown else ()
    return Imported("mtcnn", {"part": part}, state, notes)


MTCNN_FORMATS = (Format("facenet-pytorch MTCNN", lambda c: part_of(c) is not None, convert),)
