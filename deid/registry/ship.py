"""Writes the trained stages that come with this package, from those of a project folder.

    python -m deid.registry.ship

takes `params.yaml` and `data/` of the current directory and writes `deid/worlds/WORLD/shipped`, in
the form of a registered version, its matrices in half precision. Each stage's `model.json` is its
card: what it was trained on, how, and what it reached before its numbers were halved.
"""

import json
from pathlib import Path

from deid.batch.bundle import SETTINGS, STAGE_ONE, STAGE_TWO, Bundle, shipped_folder
from deid.batch.project import local_bundle
from deid.params import load_params
from deid.registry.bundle import settings_of
from deid.registry.card import license_of
from deid.stage_files import DESCRIPTION, read_stage, write_stage
from deid.storage.staging import write_atomically
from deid.worlds import load_world
from deid.worlds.world import World

OWN = {"stage", "world", "world_sha256", "sha256", "stage_one_sha256"}


def ship(bundle: Bundle, folder: Path) -> None:
    """The stages of `bundle`, the second if it is there, and its settings, to `folder`; `DeidError`
    where one is not whole."""
    world = load_world(bundle.world)
    stage_one = _halved(bundle.stage_one, STAGE_ONE, world, folder, None)
    if bundle.stage_two.is_dir():
        _halved(bundle.stage_two, STAGE_TWO, world, folder, stage_one)
    write_atomically(folder / SETTINGS, settings_of(bundle))


def _halved(source: Path, stage: str, world: World, folder: Path, below: str | None) -> str:
    """Write a stage with 16-bit matrices; its new hash. `below`: that of the stage it stands on."""
    about, tensors = read_stage(source, stage, world)
    halved = {name: t.half() if t.ndim > 1 else t for name, t in tensors.items()}
    kept = {name: value for name, value in about.items() if name not in OWN}
    if below is not None:
        kept["stage_one_sha256"] = below
    target = folder / stage
    target.mkdir(parents=True, exist_ok=True)
    write_stage(target, stage, world, halved, {**kept, "license": license_of(world.name)})
    return str(json.loads((target / DESCRIPTION).read_text())["sha256"])


if __name__ == "__main__":
    project = local_bundle(load_params())
    ship(project, shipped_folder(project.world.name))
