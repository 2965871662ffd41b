"""What a world of public files is made of, as one small file in the repository for DVC to watch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from deid.errors import DeidError
from deid.params import WorldParams
from deid.storage.staging import file_sha256, files_sha256, write_atomically
from deid.weights.catalog import needs, with_parts
from deid.weights.entry import Role
from deid.weights.store import Store, default_store, verified

PACKAGE = Path(__file__).resolve().parents[1]
CODE = (
    "faces/detection/mtcnn.py",
    "nets/*.py",
    "weights/importers/*.py",
    *(f"weights/{reader}.py" for reader in ("arrays", "dlib", "onnx_graph", "openvino")),
    *(f"weights/{reader}.py" for reader in ("tensors", "tfjs")),
    "worlds/public/*",
    "worlds/{name}/*.py",
    "worlds/{name}/weights/*",
)
"""Code and weights of ours that shape what a public world computes, and that no stage of dvc.yaml
names: each names the mini world's."""


def write_lock(params: WorldParams, out: Path, store: Store | None = None) -> None:
    """Verify every file of the world and write role → name → SHA-256 to `out`, as JSON; under
    `code`, one hash of what is in `CODE`.

    Where the files lie is not in it, so machines with the same files write the same bytes.
    DeidError names the first file that is missing or changed, and the remedy; `out` then stays as
    it was.
    """
    store = store or default_store()
    chosen = cast(Mapping[Role, tuple[str, ...]], params.files)
    wanted = needs(params.name, params.commercial, chosen)
    if not wanted:
        raise DeidError(
            f"the world {params.name} has no public files; set world.name to photo or ffhq"
        )
    hashes: dict[str, object] = {
        role: {part.name: file_sha256(verified(part, store)) for part in with_parts(names)}
        for role, names in wanted.items()
    }
    hashes["code"] = files_sha256(PACKAGE, (place.format(name=params.name) for place in CODE))
    write_atomically(out, (json.dumps(hashes, indent=2) + "\n").encode())
