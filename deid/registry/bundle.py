"""What a version of the registered model holds: both stages, the world's weights, the settings.

A bundle needs nothing of the checkout that made it but this package, which a version carries.
Public weights of the ffhq world are not in it, since most licenses forbid handing them on: they
come from the machine's own store, and the model refuses to load on others than it was trained on.
"""

import hashlib
import json
import shutil
from pathlib import Path

from deid.batch.bundle import SETTINGS, STAGE_ONE, STAGE_TWO, WEIGHTS, Bundle, read_bundle
from deid.errors import DeidError
from deid.storage.staging import file_sha256

__all__ = ["bundle_files", "content_sha256", "read_bundle", "write_bundle"]

CALIBRATION = "calibration.json"  # beside the world's own networks: its judges' thresholds
KEPT = {".safetensors", ".json", ".onnx", ".md"}  # sheets and loss curves stay behind


def bundle_files(bundle: Bundle) -> dict[str, Path]:
    """Name inside the bundle → file, sorted; a folder that is not there has no files."""
    folders = _folders(bundle)
    thresholds = bundle.world.weights.parent / CALIBRATION
    beside = {CALIBRATION: thresholds} if WEIGHTS in folders and thresholds.is_file() else {}
    return beside | {
        f"{name}/{file.relative_to(folder).as_posix()}": file
        for name, folder in folders.items()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.suffix in KEPT
    }


def content_sha256(bundle: Bundle) -> str:
    """One hash over the settings and the name and bytes of every file; times do not count."""
    whole = hashlib.sha256(settings_of(bundle))
    for name, file in bundle_files(bundle).items():
        whole.update(f"{name} {file_sha256(file)}\n".encode())
    return whole.hexdigest()


def write_bundle(bundle: Bundle, folder: Path) -> None:
    """Copy the bundle's files to `folder`; `DeidError` when one of its parts was never made."""
    files = bundle_files(bundle)
    for name in _folders(bundle):
        if not any(f.startswith(f"{name}/") and f.endswith(".safetensors") for f in files):
            raise DeidError(f"{name}: no .safetensors to register; run `dvc repro` to train first")
    for name, file in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    (folder / SETTINGS).write_bytes(settings_of(bundle))


def _folders(bundle: Bundle) -> dict[str, Path]:
    """A bundle's parts."""
    own = bundle.world.weights.is_dir()  # networks of our own; of public ones it is their hashes
    weights = {WEIGHTS: bundle.world.weights} if own else {}
    return {STAGE_ONE: bundle.stage_one, STAGE_TWO: bundle.stage_two, **weights}


def settings_of(bundle: Bundle) -> bytes:
    """World and methods' settings, without paths."""
    settings = {
        "world": bundle.world.model_dump(mode="json", exclude={"weights", "faces"}),
        "anonymize": bundle.anonymize.model_dump(mode="json"),
    }
    return (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode()
