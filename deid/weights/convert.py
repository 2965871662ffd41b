"""A public checkpoint → safetensors and a card beside it, and back.

The card (`<name>.json`) says what the file cannot: which of our networks it is, its configuration,
the SHA-256 of both the source and the weights, and by which rules missing parts were filled.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from deid.errors import DeidError
from deid.storage.staging import file_sha256, write_atomically
from deid.weights.importers import check, read_checkpoint
from deid.weights.importers.base import Imported

CARD_VERSION = 1


def convert(file: Path, out: Path | None = None) -> Path:
    """Write `file` as safetensors to `out` (or beside it) and its card; the path written.

    The card comes last, so weights with a card are whole. Raises DeidError where the checkpoint is
    unknown, unsafe or incomplete, or `out` is the source itself or cannot be written.
    """
    target = out or file.with_suffix(".safetensors")
    if target.suffix != ".safetensors":
        raise DeidError(f"{target}: name it with .safetensors at the end")
    if file.exists() and target.exists() and target.samefile(file):
        raise DeidError(f"{target}: is the source itself; name another file to write")
    imported = read_checkpoint(file)
    data = save({name: tensor.contiguous().clone() for name, tensor in imported.state.items()})
    try:
        card_path(target).unlink(missing_ok=True)
        write_atomically(target, data)
        card = _card(imported, file, file_sha256(target))
        write_atomically(card_path(target), (json.dumps(card, indent=2) + "\n").encode())
    except OSError as error:
        raise DeidError(f"{target}: cannot be written ({error.strerror or error})") from None
    return target


def card_path(weights: Path) -> Path:
    """Where the card of a weight file is."""
    return weights.with_suffix(".json")


def load_converted(path: Path) -> Imported:
    """What `convert` wrote to `path`, checked against its card.

    Raises DeidError naming the file that is missing, changed or does not fit, and the remedy.
    """
    remedy = "convert the checkpoint again with `deid weights convert`"
    card = _read_card(card_path(path), remedy)
    try:
        if file_sha256(path) != card["sha256"]:
            raise DeidError(f"{path}: is not the file its card is of; {remedy}")
        state = load(path.read_bytes())
    except OSError as error:
        raise DeidError(f"{path}: cannot be read ({error.strerror or error}); {remedy}") from None
    except SafetensorError as error:
        raise DeidError(f"{path}: not safetensors ({error}); {remedy}") from None
    imported = Imported(card["network"], card["config"], state, tuple(card["notes"]))
    try:
        check(imported)
    except (DeidError, TypeError) as error:  # TypeError: a configuration of another version
        raise DeidError(f"{path}: does not fit its card ({error}); {remedy}") from None
    return imported


def _card(imported: Imported, source: Path, sha256: str) -> dict[str, Any]:
    return {
        "card": CARD_VERSION,
        "network": imported.network,
        "config": dict(imported.config),
        "source": source.name,
        "source_sha256": file_sha256(source),
        "sha256": sha256,
        "notes": list(imported.notes),
    }


def _read_card(path: Path, remedy: str) -> dict[str, Any]:
    try:
        card = json.loads(path.read_text())
    except OSError as error:
        raise DeidError(f"{path}: cannot be read ({error.strerror or error}); {remedy}") from None
    except ValueError as error:
        raise DeidError(f"{path}: not a card ({error}); {remedy}") from None
    kinds = {"network": str, "config": dict, "sha256": str, "notes": list}
    if not isinstance(card, dict) or any(not isinstance(card.get(k), t) for k, t in kinds.items()):
        raise DeidError(f"{path}: not a card of converted weights; {remedy}")
    return card
