"""A public checkpoint → safetensors and a card beside it (`deid.weights.cards`)."""

import json
from pathlib import Path
from typing import Any

from deid.errors import DeidError
from deid.storage.staging import file_sha256, write_atomically
from deid.weights.cards import CARD_VERSION, SUFFIX, card_path
from deid.weights.importers import read_checkpoint
from deid.weights.importers.base import Imported


def convert(file: Path, out: Path | None = None) -> Path:
    """Write `file` as safetensors to `out` (or beside it) and its card; the path written.

    The card comes last, so weights with a card are whole. Raises DeidError where the checkpoint is
    unknown, unsafe or incomplete, where `out` or its card is there already, and where its folder is
    not.
    """
    from safetensors.torch import save

    target = out or file.with_suffix(SUFFIX)
    _require_free(target)
    imported = read_checkpoint(file)
    data = save({name: tensor.contiguous().clone() for name, tensor in imported.state.items()})
    try:
        write_atomically(target, data)
        card = _card(imported, file, file_sha256(target))
        write_atomically(card_path(target), (json.dumps(card, indent=2) + "\n").encode())
    except OSError as error:
        raise DeidError(f"{target}: cannot be written ({error.strerror or error})") from None
    return target


def _require_free(target: Path) -> None:
    if target.suffix != SUFFIX:
        raise DeidError(f"{target}: name it with {SUFFIX} at the end")
    if not target.parent.is_dir():
        raise DeidError(f"{target.parent}: no such folder; make it or correct the path")
    for path in (target, card_path(target)):
        if path.exists():
            raise DeidError(f"{path}: exists already; name another file with --out, or delete it")


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
