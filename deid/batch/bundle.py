"""What an anonymizer is built from: trained stages, world, settings; and what comes with deid."""

import json
from dataclasses import dataclass
from pathlib import Path

from deid.errors import DeidError
from deid.params import AnonymizeParams, WorldParams

STAGE_ONE, STAGE_TWO = "stage_one", "stage_two"
SETTINGS = "settings.json"
WEIGHTS = "weights"
FIGURES = "metrics.json"
"""Of stages that ship: what `deid evaluate` says of them."""
_WORLDS = Path(__file__).resolve().parents[1] / "worlds"


@dataclass(frozen=True)
class Origin:
    """Where a bundle is from, as the record of each output has it."""

    model: str = ""  # the registered model; else shipped, local, or a folder's name
    version: str = ""  # of the registered model
    run_id: str = ""  # of the MLflow run that registered it
    content_sha256: str = ""  # of the stages, the world's own networks and the settings


UNKNOWN = Origin()


@dataclass(frozen=True)
class Bundle:
    """Paths and settings from which an anonymizer is built."""

    stage_one: Path
    stage_two: Path
    world: WorldParams
    anonymize: AnonymizeParams
    origin: Origin = UNKNOWN


def read_bundle(folder: Path) -> Bundle:
    """The bundle in `folder`: of a registered version, or of a world that ships with one."""
    try:
        settings = json.loads((folder / SETTINGS).read_text())
        world = WorldParams(weights=folder / WEIGHTS, **settings["world"])
        anonymize = AnonymizeParams(**settings["anonymize"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DeidError(
            f"{folder}: not a readable model ({error}); register it again with `deid register`"
        ) from None
    return Bundle(folder / STAGE_ONE, folder / STAGE_TWO, world, anonymize)


def shipped_folder(world: str) -> Path:
    """Where such stages lie, if there are any."""
    return _WORLDS / world / "shipped"


def shipped_bundle(world: str) -> Bundle | None:
    """Trained stages that come with this package, of the world so called; None: it has none."""
    folder = shipped_folder(world)
    return read_bundle(folder) if folder.is_dir() else None
