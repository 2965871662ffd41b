"""What a version of the registered model holds: both stages, the world's weights, the settings.

A bundle needs nothing of the checkout that made it, only the installed `deid` package. Public
weights of the ffhq world are not in it, since most licenses forbid handing them on: they come from
the machine's own store, and the model refuses to load on others than it was trained on.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from deid.errors import DeidError
from deid.params import AnonymizeParams, Params, WorldParams, load_params
from deid.storage.staging import file_sha256

if TYPE_CHECKING:
    from deid.batch.run import RunSettings, Workshop

CHECKOUT = Path(__file__).resolve().parents[2]
PARAMS = "params.yaml"
SETTINGS = "settings.json"
STAGE_ONE, STAGE_TWO, WEIGHTS = "stage_one", "stage_two", "weights"
KEPT = {".safetensors", ".json", ".onnx", ".md"}  # sheets and loss curves stay behind


@dataclass(frozen=True)
class Bundle:
    """Paths and settings from which an anonymizer is built."""

    stage_one: Path
    stage_two: Path
    world: WorldParams
    anonymize: AnonymizeParams


def local_bundle(params: Params, root: Path = Path("data")) -> Bundle:
    """What the pipeline left in the checkout."""
    return Bundle(root / STAGE_ONE, root / STAGE_TWO, params.world, params.anonymize)


def find_root() -> Path:
    """Where `params.yaml` and `data` are: here, or else where this package was installed from."""
    here = Path.cwd()
    return here if (here / PARAMS).is_file() else CHECKOUT


def bundle_at(root: Path) -> Bundle:
    """What the pipeline left in the checkout at `root`, from any directory."""
    params = load_params(root / PARAMS) if (root / PARAMS).is_file() else Params()
    at = {"weights": root / params.world.weights}
    if params.world.faces is not None:
        at["faces"] = root / params.world.faces
    world = params.world.model_copy(update=at)
    return local_bundle(params.model_copy(update={"world": world}), root / "data")


def open_workshop(bundle: Bundle, asked: "RunSettings") -> "Workshop":
    """Everything that `asked` needs, built from `bundle`, whose own `anonymize` settings count."""
    from deid.anonymize import ModelPaths
    from deid.batch.run import build_workshop
    from deid.faces.detection import weights_of
    from deid.weights.catalog import require_commercial_content
    from deid.worlds import load_world

    if bundle.world.commercial:
        for spec in (*asked.detectors, *asked.recognizers):
            for file in weights_of(spec):
                require_commercial_content(file)

    stage_two = bundle.stage_two if bundle.stage_two.is_dir() else None
    models = ModelPaths(bundle.stage_one, stage_two) if bundle.stage_one.is_dir() else None
    settings = replace(asked, anonymize=bundle.anonymize)
    return build_workshop(settings, load_world(bundle.world), models)


def bundle_files(bundle: Bundle) -> dict[str, Path]:
    """Name inside the bundle → file, sorted; a folder that is not there has no files."""
    folders = _folders(bundle)
    return {
        f"{name}/{file.relative_to(folder).as_posix()}": file
        for name, folder in folders.items()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.suffix in KEPT
    }


def content_sha256(bundle: Bundle) -> str:
    """One hash over the settings and the name and bytes of every file; times do not count."""
    whole = hashlib.sha256(_settings(bundle))
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
    (folder / SETTINGS).write_bytes(_settings(bundle))


def read_bundle(folder: Path) -> Bundle:
    """The bundle that `write_bundle` left in `folder`."""
    try:
        settings = json.loads((folder / SETTINGS).read_text())
        world = WorldParams(weights=folder / WEIGHTS, **settings["world"])
        anonymize = AnonymizeParams(**settings["anonymize"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DeidError(
            f"{folder}: not a readable model ({error}); register it again with `deid register`"
        ) from None
    return Bundle(folder / STAGE_ONE, folder / STAGE_TWO, world, anonymize)


def _folders(bundle: Bundle) -> dict[str, Path]:
    """A bundle's parts."""
    weights = {WEIGHTS: bundle.world.weights} if bundle.world.name == "mini" else {}
    return {STAGE_ONE: bundle.stage_one, STAGE_TWO: bundle.stage_two, **weights}


def _settings(bundle: Bundle) -> bytes:
    settings = {
        "world": bundle.world.model_dump(mode="json", exclude={"weights", "faces"}),
        "anonymize": bundle.anonymize.model_dump(mode="json"),
    }
    return (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode()
