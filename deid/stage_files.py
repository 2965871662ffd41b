"""What a training stage leaves in its directory: `model.safetensors` and `model.json`.

The description says what the weights need: the world and, for stage two, the stage one it was
trained on; and what they are: the stage, its configuration and the weights' SHA-256.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from deid.errors import DeidError
from deid.params import AnonymizeParams, WorldParams
from deid.storage.staging import file_sha256, files_sha256, write_atomically
from deid.worlds.world import World

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
REQUIRED = {"stage", "world", "world_sha256", "sha256", "config"}


def write_stage(
    folder: Path, stage: str, world: World, tensors: Mapping[str, Tensor], about: Mapping[str, Any]
) -> None:
    """The weights `tensors` of `stage`, trained in `world`, with `about` in the description."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(folder / WEIGHTS, save(plain))
    origin = {"stage": stage, "world": world.name, "world_sha256": world.trained_for}
    whole = {**origin, **about, "sha256": file_sha256(folder / WEIGHTS)}
    write_atomically(folder / DESCRIPTION, (json.dumps(whole, indent=2) + "\n").encode())


def content_of(
    stage_one: Path, stage_two: Path, settings: AnonymizeParams, world: WorldParams | None = None
) -> dict[str, Any]:
    """What figures of trained stages hold for: both stages' hashes, the methods' settings, and the
    world's settings with a hash of its networks or of the list of them.

    `DeidError` where a stage has no weights.
    """
    content: dict[str, Any] = {"anonymize": settings.model_dump(mode="json")}
    if world is not None:
        place = world.weights
        networks = files_sha256(place, ["**/*.safetensors"]) if place.is_dir() else None
        if networks is None and place.is_file():
            networks = file_sha256(place)
        about = world.model_dump(mode="json", exclude={"weights", "faces"})
        content["world"] = about | {"networks": networks}
    for name, folder in (("stage_one", stage_one), ("stage_two", stage_two)):
        try:
            content[name] = file_sha256(folder / WEIGHTS)
        except FileNotFoundError:
            raise DeidError(f"{folder / WEIGHTS}: missing; train it with `dvc repro`") from None
    return content


def read_description(folder: Path) -> dict[str, Any]:
    """`model.json` of a stage's directory; `DeidError` where it is missing or damaged."""
    path = folder / DESCRIPTION
    try:
        about: Any = json.loads(path.read_text())
    except FileNotFoundError:
        raise DeidError(f"{path}: missing; train it with `dvc repro`") from None
    except ValueError as error:
        raise DeidError(f"{path}: damaged ({error}); train it again with `dvc repro`") from None
    missing = REQUIRED - about.keys() if isinstance(about, dict) else REQUIRED
    if missing:
        named = ", ".join(sorted(missing))
        raise DeidError(f"{path}: damaged (no {named}); train it again with `dvc repro`")
    description: dict[str, Any] = about
    return description


def damaged(folder: Path, error: Exception) -> DeidError:
    """The error of a stage whose description does not fit its weights or this version."""
    reason = f"{type(error).__name__}: {error}"
    return DeidError(f"{folder / DESCRIPTION}: damaged ({reason}); train it again with `dvc repro`")


def read_stage(folder: Path, stage: str, world: World) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and weights of `stage` in `folder`.

    `DeidError` where a file is missing or damaged, of another stage, or trained in another world
    than `world`.
    """
    about, path = read_description(folder), folder / WEIGHTS
    if about.get("stage") != stage:
        raise DeidError(f"{folder}: holds {about.get('stage')}, not {stage}; correct the path")
    if about["world_sha256"] != world.trained_for:
        raise DeidError(
            f"{folder}: trained on other weights of world {about['world']}; run `dvc repro`"
        )
    try:
        if file_sha256(path) != about["sha256"]:
            raise DeidError(f"{path}: hash differs from {DESCRIPTION}'s; restore or retrain it")
        return about, load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        raise DeidError(f"{path}: missing or damaged ({error}); run `dvc repro`") from None
