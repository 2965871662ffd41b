"""The card beside converted weights, `<name>.json`, says what safetensors cannot: which of our
networks they are, its configuration, the SHA-256 of source and weights, and how missing parts were
filled. Weights with a card are read without the checkpoint that they came from; whose terms they
are on, the catalog knows by the source's SHA-256 (`deid.weights.catalog.find`).
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deid.errors import DeidError
from deid.storage.staging import file_sha256
from deid.weights.archives import read_bounded

if TYPE_CHECKING:
    from deid.weights.importers.base import Imported

SUFFIX = ".safetensors"
CARD_VERSION = 1
LARGEST_CARD = 1 << 20  # bytes

_KINDS = {
    "source": str,
    "network": str,
    "config": dict,
    "sha256": str,
    "source_sha256": str,
    "notes": list,
}
_REMEDY = "convert the checkpoint again with `deid weights convert`"


def card_path(weights: Path) -> Path:
    """Where the card of a weight file is."""
    return weights.with_suffix(".json")


def has_card(path: Path) -> bool:
    """Whether the file is one that `deid weights convert` wrote."""
    return path.suffix == SUFFIX and card_path(path).is_file()


def read_card(weights: Path) -> dict[str, Any]:
    """The card of a weight file; DeidError where there is none or it is not one."""
    path = card_path(weights)
    try:
        card = json.loads(read_bounded(path, LARGEST_CARD))
    except DeidError as error:
        raise DeidError(f"{path.parent}: {error}; {_REMEDY}") from None
    except (ValueError, RecursionError) as error:
        raise DeidError(f"{path}: not a card ({error}); {_REMEDY}") from None
    if not isinstance(card, dict) or any(not isinstance(card.get(k), t) for k, t in _KINDS.items()):
        raise DeidError(f"{path}: not a card of converted weights; {_REMEDY}")
    if card.get("card") != CARD_VERSION:
        raise DeidError(f"{path}: a card of another version than {CARD_VERSION}; {_REMEDY}")
    return card


def read_converted(path: Path) -> "Imported":
    """What `deid weights convert` wrote to `path`, checked against its card.

    Raises DeidError naming the file that is missing or changed, and the remedy. Whether state and
    network fit each other is not checked here.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    from deid.weights.importers.base import Imported

    card = read_card(path)
    try:
        if file_sha256(path) != card["sha256"]:
            raise DeidError(f"{path}: is not the file its card is of; {_REMEDY}")
        state = load(path.read_bytes())
    except OSError as error:
        raise DeidError(f"{path}: cannot be read ({error.strerror or error}); {_REMEDY}") from None
    except SafetensorError as error:
        raise DeidError(f"{path}: not safetensors ({error}); {_REMEDY}") from None
    return Imported(card["network"], card["config"], state, tuple(map(str, card["notes"])))
