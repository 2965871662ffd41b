"""Which model draws the faces: the answer to `--model`, for `deid run`, the flow and the service.

    champion | challenger | previous    what holds the alias in the registry
    3                                   that version of the registered model
    shipped                             the stages that come with deid
    local                               what `dvc repro` left in the project
    PATH                                a model's folder, or a project's

Without any, the stages that come with deid; of a world that has none, the project's own.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from deid.batch.bundle import SETTINGS, Bundle, Origin, shipped_bundle, shipped_folder
from deid.batch.project import PARAMS, bundle_at
from deid.errors import DeidError
from deid.params import RegisterParams, load_params
from deid.registry.bundle import content_sha256, read_bundle
from deid.registry.files import PACKED, registered
from deid.registry.versions import CHALLENGER, CHAMPION, PREVIOUS

SHIPPED, LOCAL = "shipped", "local"
ALIASES = (CHAMPION, CHALLENGER, PREVIOUS)


@dataclass(frozen=True)
class Chosen:
    """A model and what it is called."""

    bundle: Bundle
    name: str  # "face-deid version 3 (champion)", "shipped", "local", or a path
    version: str | None  # of the registered model
    run_id: str | None  # of the MLflow run that registered it
    content_sha256: str


def chosen(choice: str | None, model: str, root: Path, world: str | None = None) -> Chosen:
    """The model that `choice` names: `model` is the registered one, `root` the project's folder.

    Without a `world`, it is that of `root`, or of the version or folder that was chosen.
    `DeidError`, with the remedy, where there is no such model, its files are gone or not those that
    were registered, or it is of another world than `world`.
    """
    if choice is None or choice == LOCAL:
        bundle = bundle_at(root, world, trained_there=choice == LOCAL)
        ships = bundle.stage_one.parent == shipped_folder(bundle.world.name)
        if choice == LOCAL and (ships or not bundle.stage_one.is_dir()):
            raise DeidError(
                f"--model local: nothing was trained in {root} for world {bundle.world.name}; run "
                "`dvc repro`, or choose --model shipped"
            )
        return named(bundle, SHIPPED if ships else LOCAL)
    if choice == SHIPPED:
        return named(_shipped(root, world), SHIPPED)
    if choice in ALIASES or choice.isdecimal():
        found = registered(choice, model)
        bundle = _under_terms(found.bundle, root, world, choice)
        origin = Origin(model, found.version, found.run_id, found.content_sha256)
        return Chosen(
            replace(bundle, origin=origin),
            found.name,
            found.version,
            found.run_id,
            found.content_sha256,
        )
    return named(_under_terms(_in_folder(Path(choice)), root, world, choice), choice)


def named(bundle: Bundle, name: str) -> Chosen:
    """`bundle`, of no registry, as the one called `name`, which says so in every record."""
    content = content_sha256(bundle)
    # Records travel with the outputs: of a folder they tell the name, not where it was.
    origin = Origin(Path(name).name, content_sha256=content)
    return Chosen(replace(bundle, origin=origin), name, None, None, content)


def model_name(root: Path) -> str:
    """What the registered model is called in the project `root`."""
    file = root / PARAMS
    return (load_params(file).register_ if file.is_file() else RegisterParams()).model


def _shipped(root: Path, world: str | None) -> Bundle:
    there = bundle_at(root, world).world  # under the terms of the project
    shipped = shipped_bundle(there.name)
    if shipped is None:
        raise DeidError(
            f"--model shipped: no stages of world {there.name} come with deid; choose --world "
            "photo, or train with `dvc repro`"
        )
    return replace(shipped, world=there) if (root / PARAMS).is_file() else shipped


def _in_folder(folder: Path) -> Bundle:
    """A packed bundle, an MLflow model that holds one, or a project."""
    for place in (folder, folder / PACKED):
        if (place / SETTINGS).is_file():
            return read_bundle(place)
    if (folder / PARAMS).is_file():
        return bundle_at(folder.resolve(), trained_there=True)
    raise DeidError(
        f"--model {folder}: neither champion, challenger, previous, shipped, local nor a version's "
        f"number, and no folder with a {SETTINGS} or {PARAMS}; correct it"
    )


def _under_terms(bundle: Bundle, root: Path, world: str | None, choice: str) -> Bundle:
    """`bundle`, held to the terms of the project where it is used."""
    own = bundle.world
    if world not in (None, own.name):
        raise DeidError(
            f"--model {choice} --world {world}: it is of world {own.name}; leave out --world"
        )
    strict = (root / PARAMS).is_file() and load_params(root / PARAMS).world.commercial
    terms = own.model_copy(update={"commercial": own.commercial or strict})
    return replace(bundle, world=terms)
