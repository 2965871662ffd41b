"""The model registry: versions of `face-deid` and the aliases that move between them.

    register → `challenger` → gates → `champion`, and the one before it is kept under `previous`

The first version that passes its gates becomes champion at once: there is nothing to lose to. Equal
content is the same version, however often it is registered.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deid import __version__
from deid.batch.bundle import Bundle
from deid.errors import DeidError
from deid.params import RegisterParams
from deid.registry.bundle import content_sha256, read_bundle, write_bundle
from deid.registry.gates import FIGURES, failed_gates, gated, metrics_table, read_metrics
from deid.stage_files import content_of
from deid.storage.staging import prepare, write_atomically
from deid.tracking import (
    RUN_ID_FILE,
    git_commit,
    mlflow_client,
    store_errors,
    tracked_run,
    tracking_uri,
)

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
CONTENT, VALIDATION, REASON = "content_sha256", "validation", "validation_reason"
WITHDRAWN = "withdrawn"
PROMOTED, FIRST = "promoted_after", "none"
"""The tag of a version that was made champion: which one was before it. It stays: the best of those
that have it is the mark to reach."""
ARTIFACT = "model"
RECORDED = ("model", "version", "content_sha256")  # of a `Registration`, what never changes


@dataclass(frozen=True)
class Registration:
    """A registered version and how it stands: `alias` is champion, challenger, previous, withdrawn
    after a rollback, or empty."""

    model: str
    version: int
    alias: str
    content_sha256: str
    validation: str


@dataclass(frozen=True)
class Contest:
    """A challenger's figures beside the champion's, and the gates that it fails."""

    challenger: int
    failures: list[str]
    table: str


@store_errors()
def register(params: RegisterParams, bundle: Bundle, metrics: Path, out: Path) -> Registration:
    """Make `bundle` a version of `params.model` with the figures of `metrics`; write `out`.

    Errors: `DeidError` for untrained models, missing figures or those of another model; nothing is
    registered then. A killed call resumes its run when called again, and makes no second version.
    `out` says which version holds the content, not how it stands, which changes: `standing` asks.
    """
    figures, measured = read_metrics(metrics)
    if measured != content_of(bundle.stage_one, bundle.stage_two, bundle.anonymize):
        raise DeidError(
            f"{metrics}: measured on another model or other settings than those to be registered; "
            "run `dvc repro evaluate` first"
        )
    content = content_sha256(bundle)
    client = mlflow_client()
    if out.is_dir():
        raise DeidError(f"{out}: a file belongs here, not a folder; move the folder away")
    work = out.with_name(out.name + ".partial")
    prepare(work, content)
    try:
        _ensure_model(client, params.model)
        version = _version_with(client, params.model, content)
        if version is None or (work / RUN_ID_FILE).is_file():
            version = _create_version(client, params, bundle, content, figures, work)
        validation = _record_figures(client, params, version, figures)
        alias = _place(client, params.model, version, validation)
        done = Registration(params.model, int(version.version), alias, content, validation)
        record = {key: value for key, value in asdict(done).items() if key in RECORDED}
        write_atomically(out, (json.dumps(record, indent=2, sort_keys=True) + "\n").encode())
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return done


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
    validation = client.get_model_version(model, str(version)).tags.get(VALIDATION, "")
    aliases = [name for name, held in _aliases(client, model).items() if held == str(version)]
    alias = WITHDRAWN if validation == WITHDRAWN else next(iter(sorted(aliases)), "")
    return Registration(model, int(version), alias, sha256, validation)


@store_errors()
def contest(params: RegisterParams) -> Contest:
    """Hold the challenger against the gates and the champion; changes nothing but its tags."""
    client = mlflow_client()
    aliases = _aliases(client, params.model)
    if CHALLENGER not in aliases:
        raise DeidError(
            f"{params.model}: there is no challenger; train another model with `dvc repro`"
        )
    challenger = client.get_model_version(params.model, aliases[CHALLENGER])
    promoted = _promoted(client, params.model, aliases)
    figures = _figures_of(challenger)
    failures = failed_gates(params.gates, figures, promoted)
    _tag_validation(client, challenger, failures)
    table = metrics_table(params.gates, figures, promoted[-1] if promoted else None)
    return Contest(int(challenger.version), failures, table)


@store_errors()
def promote(params: RegisterParams) -> str:
    """Make the challenger champion if it passes every gate; returns what was done.

    Errors: `DeidError` that names the failed gates with their figures; no alias moves then.
    """
    client, model = mlflow_client(), params.model
    if done := _finish_promotion(client, model):
        return done
    judged = contest(params)
    if judged.failures:
        raise DeidError(
            f"{model} version {judged.challenger} stays {CHALLENGER}: "
            f"{'; '.join(judged.failures)}; train a better one or change register.gates"
        )
    old = _aliases(client, model).get(CHAMPION, FIRST)
    client.set_model_version_tag(model, str(judged.challenger), PROMOTED, old)
    client.set_registered_model_alias(model, CHAMPION, str(judged.challenger))
    return _finish_promotion(client, model) or f"{model} version {judged.challenger} is {CHAMPION}"


def _finish_promotion(client: "MlflowClient", model: str) -> str | None:
    """What follows the move of `champion`, also where a promotion was killed there; None where none
    is unfinished. The version itself says after which it came, so that no kill loses the way back.
    """
    aliases = _aliases(client, model)
    version = aliases.get(CHAMPION)
    if version is None or aliases.get(CHALLENGER) != version:
        return None
    old = client.get_model_version(model, version).tags.get(PROMOTED, FIRST)
    if old != FIRST:
        client.set_registered_model_alias(model, PREVIOUS, old)
    client.delete_registered_model_alias(model, CHALLENGER)
    before = f"; version {old} is {PREVIOUS}" if old != FIRST else ""
    return f"{model} version {version} is {CHAMPION}{before}"


@store_errors()
def rollback(params: RegisterParams) -> str:
    """Give `champion` back to `previous`; the version that had it is withdrawn for good."""
    client = mlflow_client()
    _finish_promotion(client, params.model)
    aliases = _aliases(client, params.model)
    if PREVIOUS not in aliases:
        raise DeidError(f"{params.model}: no previous champion to go back to; nothing changed")
    withdrawn, restored = aliases.get(CHAMPION), aliases[PREVIOUS]
    client.set_registered_model_alias(params.model, CHAMPION, restored)
    client.delete_registered_model_alias(params.model, PREVIOUS)
    if withdrawn not in (None, restored):
        client.set_model_version_tag(params.model, withdrawn, VALIDATION, WITHDRAWN)
    return (
        f"{params.model} version {restored} is {CHAMPION} again; version {withdrawn} is {WITHDRAWN}"
    )


@store_errors()
def champion_version(model: str) -> int | None:
    """The version that is champion, or None when nothing was ever registered."""
    alias = _aliases(mlflow_client(), model).get(CHAMPION)
    return None if alias is None else int(alias)


@store_errors()
def champion_bundle(model: str) -> Bundle | None:
    """The champion's files, local (downloaded if need be); None without a champion."""
    version = champion_version(model)
    if version is None:
        return None
    import mlflow

    client = mlflow_client()
    uri = client.get_model_version_download_uri(model, str(version))
    mlflow.set_tracking_uri(tracking_uri())
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    return read_bundle(folder / "artifacts" / "bundle")


def _aliases(client: "MlflowClient", model: str) -> dict[str, str]:
    from mlflow.exceptions import MlflowException

    try:
        return {k: str(v) for k, v in client.get_registered_model(model).aliases.items()}
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise


def _ensure_model(client: "MlflowClient", model: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _version_with(client: "MlflowClient", model: str, content: str) -> "ModelVersion | None":
    versions = client.search_model_versions(f"name='{model}'")
    same = [version for version in versions if version.tags.get(CONTENT) == content]
    return min(same, key=lambda version: int(version.version), default=None)


def _create_version(
    client: "MlflowClient",
    params: RegisterParams,
    bundle: Bundle,
    content: str,
    figures: Mapping[str, float],
    work: Path,
) -> "ModelVersion":
    """A version from a run of its own; `work` knows the run of a call that was killed."""
    from deid.registry.packaging import save_pyfunc

    with tempfile.TemporaryDirectory() as scratch:
        folder, packed = Path(scratch) / "bundle", Path(scratch) / ARTIFACT
        write_bundle(bundle, folder)
        with tracked_run("register", params.model_dump(mode="json"), resume=work) as run:
            if known := _version_with(client, params.model, content):
                return known  # the killed call came so far, and its run ends here
            save_pyfunc(folder, packed)
            run.artifact(packed)
            run.metrics(0, **figures)
            run.flush()  # a version without its figures must not be
            tags = {CONTENT: content, "deid_version": __version__}
            if commit := git_commit():
                tags["git_commit"] = commit
            source = f"{client.get_run(run.run_id).info.artifact_uri}/{ARTIFACT}"
            return client.create_model_version(params.model, source, run_id=run.run_id, tags=tags)


def _record_figures(
    client: "MlflowClient",
    params: RegisterParams,
    version: "ModelVersion",
    figures: Mapping[str, float],
) -> str:
    for key, value in gated(figures).items():
        client.set_model_version_tag(params.model, version.version, key, repr(value))
    if version.tags.get(VALIDATION) == WITHDRAWN:
        return WITHDRAWN
    return _tag_validation(client, version, failed_gates(params.gates, figures))


def _tag_validation(client: "MlflowClient", version: "ModelVersion", failures: list[str]) -> str:
    verdict = "failed" if failures else "passed"
    client.set_model_version_tag(version.name, version.version, VALIDATION, verdict)
    client.set_model_version_tag(version.name, version.version, REASON, "; ".join(failures))
    return verdict


def _figures_of(version: "ModelVersion") -> dict[str, float]:
    return {f.key: float(version.tags[f.key]) for f in FIGURES if f.key in version.tags}


def _promoted(
    client: "MlflowClient", model: str, aliases: Mapping[str, str]
) -> list[dict[str, float]]:
    """The figures of every version that was champion and was not withdrawn; the champion's last."""
    champions = {aliases[name] for name in (CHAMPION, PREVIOUS) if name in aliases}
    versions = [
        version
        for version in client.search_model_versions(f"name='{model}'")
        if version.tags.get(VALIDATION) != WITHDRAWN
        if PROMOTED in version.tags or str(version.version) in champions
    ]
    versions.sort(key=lambda v: (str(v.version) == aliases.get(CHAMPION), int(v.version)))
    return [_figures_of(version) for version in versions]


def _place(client: "MlflowClient", model: str, version: "ModelVersion", validation: str) -> str:
    champion = _aliases(client, model).get(CHAMPION)
    if champion == str(version.version):
        return CHAMPION
    if validation == WITHDRAWN:  # or a nightly retraining would undo every rollback
        return WITHDRAWN
    alias = CHAMPION if champion is None and validation == "passed" else CHALLENGER
    if alias == CHAMPION:
        client.set_model_version_tag(model, version.version, PROMOTED, FIRST)
    client.set_registered_model_alias(model, alias, version.version)
    return alias
