"""A card beside every weight file: what it is, what it trained on, how good it is, and its hash.

    python -m deid.worlds.cards TRAINED data/mini/weights

copies what the trainings made to where the world is loaded from.
"""

import hashlib
import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from deid.errors import DeidError
from deid.storage.staging import write_atomically

Card = dict[str, Any]
_REMEDY = "restore it with `git checkout -- {folder}` or train it again with `make pretrain`"


def hardware() -> str:
    """The processor, in words."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        model = platform.processor() or platform.machine()
    return f"1 core of {model}"


def write_card(folder: Path, name: str, network: nn.Module, card: Card) -> None:
    """`<name>.safetensors` and `<name>.json` in `folder`; size, version and hash are added."""
    tensors = {key: value.contiguous() for key, value in network.state_dict().items()}
    data = save(tensors)
    full = card | {
        "parameters": sum(p.numel() for p in network.parameters()),
        "torch": torch.__version__,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    write_atomically(folder / f"{name}.safetensors", data)
    write_atomically(folder / f"{name}.json", (json.dumps(full, indent=2) + "\n").encode())


def read_verified(folder: Path, name: str) -> tuple[dict[str, Tensor], str]:
    """The tensors of `<name>.safetensors` and their SHA-256, which must be the card's.

    Raises DeidError naming the file that is missing, unreadable or changed, and the remedy.
    """
    remedy = _REMEDY.format(folder=folder)
    card, weights = folder / f"{name}.json", folder / f"{name}.safetensors"
    try:
        wanted = json.loads(card.read_text())["sha256"]
        data = weights.read_bytes()
    except FileNotFoundError as error:
        raise DeidError(f"{error.filename}: missing; {remedy}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DeidError(f"{card}: not a readable card ({error}); {remedy}") from None
    found = hashlib.sha256(data).hexdigest()
    if found != wanted:
        raise DeidError(
            f"{weights}: SHA-256 is {found[:12]}…, its card says {wanted[:12]}…; {remedy}"
        )
    try:
        return load(data), found
    except SafetensorError as error:
        raise DeidError(f"{weights}: not safetensors ({error}); {remedy}") from None


def publish(trained: Path, weights: Path) -> None:
    """Copy every verified pair of `trained/<name>/` to `weights/`, the card last."""
    for folder in sorted(trained.iterdir()):
        if not folder.is_dir() or folder.suffix == ".partial":
            continue
        read_verified(folder, folder.name)
        for suffix in (".safetensors", ".json"):
            file = f"{folder.name}{suffix}"
            write_atomically(weights / file, (folder / file).read_bytes())


if __name__ == "__main__":
    publish(Path(sys.argv[1]), Path(sys.argv[2]))
