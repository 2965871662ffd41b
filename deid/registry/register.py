"""Make what was trained and evaluated a version of the registered model.

Where stages come with deid, they are the first version. The first one that passes its gates
becomes champion at once: there is nothing to lose to. Equal content is the same version, however
often it is registered; where its files were lost, they are put back. What `dvc exp run` trained
becomes a version without an alias.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deid import __version__
from deid.batch.bundle import FIGURES, Bundle, shipped_bundle, shipped_folder
from deid.errors import DeidError
from deid.params import RegisterParams, WorldParams
from deid.registry.bundle import content_sha256, write_bundle
from deid.registry.card import INTENDED, model_card
from deid.registry.files import CHANGED, GONE, files_state
from deid.registry.gates import Metrics, failed_gates, gated, read_metrics
from deid.registry.moves import make, moving, promotion
from deid.registry.versions import (
    CHALLENGER,
    CHAMPION,
    CONTENT,
    HELD_OUT,
    PASSED,
    PROMOTED,
    VALIDATION,
    WITHDRAWN,
    aliases_of,
    barred,
    tag_validation,
    versions_of,
)
from deid.stage_files import content_of
from deid.storage.staging import prepare, write_atomically
from deid.tracking import (
    RUN_ID_FILE,
    Tracker,
    experiment,
    git_commit,
    mlflow_client,
    store_errors,
    tracked_run,
)

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

ARTIFACT = "model"
LONGEST = 5000  # characters of a description; the whole card lies in the artifact
EXPERIMENT = "experiment"
"""The tag of a version that `dvc exp run` made: the experiment's name."""
SCRATCH = "scratch"
"""The file that says where a call packs its files."""
RECORDED = ("model", "version", "content_sha256")  # of a `Registration`, what never changes


@dataclass(frozen=True)
class Registration:
    """A registered version and how it stands: `alias` is champion, challenger, previous, withdrawn
    after a rollback, retired, or empty."""

    model: str
    version: int
    alias: str
    content_sha256: str
    validation: str


@store_errors()
def register(params: RegisterParams, bundle: Bundle, metrics: Path, out: Path) -> Registration:
    """Make `bundle` a version of `params.model` with the figures of `metrics`; write `out`.

    Errors: `DeidError` for untrained models, missing figures or those of another model; nothing is
    registered then. A killed call resumes its run when called again, and makes no second version.
    `out` says which version holds the content, not how it stands, which changes: `standing` asks.
    """
    read = read_metrics(metrics)
    if read.measured != content_of(
        bundle.stage_one, bundle.stage_two, bundle.anonymize, bundle.world
    ):
        raise DeidError(
            f"{metrics}: measured on another model, networks or settings than those to be "
            "registered; run `dvc repro evaluate` first"
        )
    client = mlflow_client()
    if out.is_dir():
        raise DeidError(f"{out}: a file belongs here, not a folder; move the folder away")
    _ensure_model(client, params.model)
    _register_shipped(client, params, bundle.world, read.held_out, out)
    done = _registered(client, params, bundle, read, out)
    for left in out.parent.glob(f"{out.name}.*.partial"):  # of killed calls with other content
        _discard(left)
    record = {key: value for key, value in asdict(done).items() if key in RECORDED}
    write_atomically(out, (json.dumps(record, indent=2, sort_keys=True) + "\n").encode())
    return done


def _register_shipped(
    client: "MlflowClient", params: RegisterParams, world: WorldParams, held_out: str, out: Path
) -> None:
    """The stages that come with deid, in a store that never had a champion; what is trained here is
    a challenger until it beats them. Not where they were measured on other faces than `held_out` or
    in a world set up otherwise: the two could not be compared.
    """
    shipped, figures = shipped_bundle(world.name), shipped_folder(world.name) / FIGURES
    if shipped is None or not figures.is_file() or experiment():
        return
    if any(PROMOTED in version.tags for version in versions_of(client, params.model).values()):
        return
    bundle, read = replace(shipped, world=world), read_metrics(figures)
    content = content_of(bundle.stage_one, bundle.stage_two, bundle.anonymize, world)
    if read.held_out == held_out and but_code(read.measured) == but_code(content):
        _registered(client, params, bundle, read, out)


def but_code(measured: Any) -> Any:
    """What was measured, without the hash in which the code that runs the networks has part: a
    release is not measured anew for each change of it."""
    return measured | {"world": {**measured["world"], "networks": None}}


def _registered(
    client: "MlflowClient", params: RegisterParams, bundle: Bundle, read: Metrics, out: Path
) -> Registration:
    """`bundle` as a version with these figures; a killed call is taken up beside `out`."""
    content = content_sha256(bundle)
    work = out.with_name(f"{out.name}.{content[:8]}.partial")
    prepare(work, content)
    try:
        version = _version_with(client, params.model, content)
        card = model_card(params.model, bundle, read, params.gates, content)
        if version is None or (work / RUN_ID_FILE).is_file():
            version = _create_version(client, params, bundle, content, read, card, work)
        elif files_state(client, version) in (GONE, CHANGED):
            _put_back(client, version, bundle, card, work)
        with moving(client, params.model):
            version = client.get_model_version(params.model, version.version)  # as it stands now
            validation = record_figures(client, params, version, read)
            alias = _place(client, params.model, version, validation)
        return Registration(params.model, int(version.version), alias, content, validation)
    finally:
        _discard(work)


@store_errors()
def standing(record: Path) -> Registration:
    """How the version that `register` wrote to `record` stands now; `DeidError` where it is damaged
    or the store has no such version."""
    try:
        content = json.loads(record.read_text())
        model, version, sha256 = (content[key] for key in RECORDED)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DeidError(f"{record}: not readable ({error}); run `dvc repro -f register`") from None
    client = mlflow_client()
    found = client.get_model_version(model, str(version))
    aliases = [name for name, held in aliases_of(client, model).items() if held == str(version)]
    alias = barred(found) or next(iter(sorted(aliases)), "")
    return Registration(model, int(version), alias, sha256, found.tags.get(VALIDATION, ""))


def _ensure_model(client: "MlflowClient", model: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(model, description=INTENDED)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _version_with(client: "MlflowClient", model: str, content: str) -> "ModelVersion | None":
    versions = versions_of(client, model).values()
    return next((version for version in versions if version.tags.get(CONTENT) == content), None)


def _create_version(
    client: "MlflowClient",
    params: RegisterParams,
    bundle: Bundle,
    content: str,
    read: Metrics,
    card: str,
    work: Path,
) -> "ModelVersion":
    """A version from a run of its own; `work` knows the run of a call that was killed, and
    where it packed."""
    with (
        _scratch(work) as scratch,
        tracked_run("register", params.model_dump(mode="json"), resume=work) as run,
    ):
        if known := _version_with(client, params.model, content):
            return known  # the killed call came so far, and its run ends here
        run.artifact(_packed(bundle, scratch, card))
        run.metrics(0, **read.figures)
        run.flush()  # a version without its figures must not be
        tags = {CONTENT: content, "deid_version": __version__}
        if commit := git_commit():
            tags["git_commit"] = commit
        if name := experiment():
            tags[EXPERIMENT] = name
        source = f"{client.get_run(run.run_id).info.artifact_uri}/{ARTIFACT}"
        return client.create_model_version(
            params.model, source, run_id=run.run_id, tags=tags, description=card[:LONGEST]
        )


def _put_back(
    client: "MlflowClient", version: "ModelVersion", bundle: Bundle, card: str, work: Path
) -> None:
    """The files of a version that lost them, of the same content, to where they were."""
    run_id, place = str(version.run_id), str(version.source)
    if place != f"{client.get_run(run_id).info.artifact_uri}/{ARTIFACT}":
        raise DeidError(
            f"{version.name} version {version.version}: its files are gone from {place}, which is "
            "not where its run keeps them; put them back there"
        )
    with _scratch(work) as scratch:
        Tracker(client, run_id).artifact(_packed(bundle, scratch, card))


@contextmanager
def _scratch(work: Path) -> Iterator[Path]:
    """A folder to pack in, of which `work` knows, so that what a killed call left is removed. It is
    not in the project, whose place would go along: MLflow writes down where it found a file."""
    _remove_scratch(work)
    with tempfile.TemporaryDirectory() as folder:
        (work / SCRATCH).write_text(folder)
        yield Path(folder)


def _discard(work: Path) -> None:
    _remove_scratch(work)
    shutil.rmtree(work, ignore_errors=True)


def _remove_scratch(work: Path) -> None:
    note = work / SCRATCH
    if note.is_file() and (folder := Path(note.read_text())).parent == Path(tempfile.gettempdir()):
        shutil.rmtree(folder, ignore_errors=True)


def _packed(bundle: Bundle, scratch: Path, card: str) -> Path:
    """`bundle` as an MLflow model's folder."""
    from deid.registry.packaging import save_pyfunc

    folder, packed = scratch / "bundle", scratch / ARTIFACT
    write_bundle(bundle, folder)
    save_pyfunc(folder, packed, card)
    return packed


def record_figures(
    client: "MlflowClient", params: RegisterParams, version: "ModelVersion", read: Metrics
) -> str:
    """Give a version its gated figures, and the verdict on them, which is returned."""
    figures = read.figures
    client.set_model_version_tag(params.model, version.version, HELD_OUT, read.held_out)
    for key, value in gated(figures).items():
        client.set_model_version_tag(params.model, version.version, key, repr(value))
    if version.tags.get(VALIDATION) == WITHDRAWN:
        return WITHDRAWN
    return tag_validation(client, version, failed_gates(params.gates, figures))


def _place(client: "MlflowClient", model: str, version: "ModelVersion", validation: str) -> str:
    aliases = aliases_of(client, model)
    if aliases.get(CHAMPION) == str(version.version):
        return CHAMPION
    if experiment():  # who finds it good promotes it by its number
        return ""
    if why := barred(version):  # or a nightly retraining would undo every rollback
        return why
    first = not any(PROMOTED in other.tags for other in versions_of(client, model).values())
    if first and CHAMPION not in aliases and validation == PASSED:
        make(client, model, promotion(aliases, str(version.version), "the first to pass its gates"))
        return CHAMPION
    client.set_registered_model_alias(model, CHALLENGER, version.version)
    return CHALLENGER
