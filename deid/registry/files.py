"""The files of a registered version on this machine: fetched once, and what was registered."""

import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse
from urllib.request import url2pathname

from deid.batch.bundle import Bundle
from deid.errors import DeidError
from deid.registry.bundle import content_sha256, read_bundle
from deid.registry.versions import CONTENT, RETIRED, aliases_of
from deid.tracking import mlflow_client, shown, store_errors, store_exists, tracking_uri

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

PACKED = Path("artifacts/bundle")
"""Where an MLflow model has what `write_bundle` wrote."""
GONE, CHANGED = "gone", "changed"
REMEDY = "run `deid register` where it was trained, which puts them back"


@dataclass(frozen=True)
class Registered:
    """A version of the registered model, and its files."""

    bundle: Bundle
    name: str  # "face-deid version 3", with the alias by which it was asked for
    version: str
    run_id: str
    content_sha256: str


@store_errors()
def registered(choice: str, model: str) -> Registered:
    """The version that `choice`, an alias or a number, names, with its files on this machine.

    `DeidError` where there is none, it was retired, or its files are gone or have changed.
    """
    if not store_exists():
        raise DeidError(
            f"--model {choice}: nothing is registered ({shown(tracking_uri())} is missing); run in "
            "the project's root, name a store in MLFLOW_TRACKING_URI, or choose --model shipped"
        )
    client = mlflow_client()
    version = find_version(client, model, choice)
    if version.tags.get(RETIRED):
        raise DeidError(
            f"{model} version {version.version} is retired: {version.tags[RETIRED]}; choose another"
        )
    name = f"{model} version {version.version}"
    bundle = read_bundle(local_files(client, version) / PACKED)
    content = content_sha256(bundle)
    if content != version.tags.get(CONTENT):
        raise DeidError(f"{name}: its files are not those that were registered; {REMEDY}")
    asked = "" if choice.isdecimal() else f" ({choice})"
    return Registered(
        bundle, f"{name}{asked}", str(version.version), str(version.run_id or ""), content
    )


def find_version(client: "MlflowClient", model: str, choice: str) -> "ModelVersion":
    """By alias or number; `DeidError` where the store has none such."""
    from mlflow.exceptions import MlflowException

    number = choice if choice.isdecimal() else aliases_of(client, model).get(choice)
    where = shown(tracking_uri())
    if number is None:
        raise DeidError(
            f"{model}: there is no {choice} in {where}; see `deid registry list`, or choose "
            "--model shipped"
        )
    try:
        return client.get_model_version(model, number)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise DeidError(
            f"{model} version {number}: not in {where}; see `deid registry list`"
        ) from None


def files_state(client: "MlflowClient", version: "ModelVersion") -> str:
    """whole (what was registered), changed, gone; or stored, of those on another machine, which are
    held against their hash when they are fetched."""
    place = _place(client, version)
    if not isinstance(place, Path):
        return "stored" if _stored(client, version) else GONE
    if not (place / PACKED).is_dir():
        return GONE
    return "whole" if _holds(place, version.tags.get(CONTENT, "")) else CHANGED


def require_files(client: "MlflowClient", version: "ModelVersion") -> None:
    """`DeidError` where a version's files are gone, or not those that were registered."""
    if (state := files_state(client, version)) in (GONE, CHANGED):
        raise DeidError(
            f"{version.name} version {version.version}: its files are {state}; {REMEDY}"
        )


def local_files(client: "MlflowClient", version: "ModelVersion") -> Path:
    """The MLflow model's folder: where it lies, or fetched once into the user's cache."""
    place = _place(client, version)
    if not isinstance(place, Path):
        return _fetched(place, version)
    if not (place / PACKED).is_dir():
        raise DeidError(
            f"{version.name} version {version.version}: its files are gone from {place}; {REMEDY}"
        )
    return place


def _place(client: "MlflowClient", version: "ModelVersion") -> Path | str:
    """Its folder on this machine, or its address elsewhere."""
    uri = str(client.get_model_version_download_uri(version.name, version.version))
    parsed = urlparse(uri)
    return Path(url2pathname(parsed.path)) if parsed.scheme in ("", "file") else uri


def _stored(client: "MlflowClient", version: "ModelVersion") -> bool:
    """Whether another machine has anything of it."""
    name = str(version.source).rstrip("/").rpartition("/")[2]
    return bool(client.list_artifacts(str(version.run_id), f"{name}/{PACKED.as_posix()}"))


def _fetched(uri: str, version: "ModelVersion") -> Path:
    """From another machine, kept by content: each version is fetched once, and again where its
    copy was damaged."""
    import mlflow
    from mlflow.exceptions import MlflowException
    from platformdirs import user_cache_path

    content = version.tags.get(CONTENT, "unknown")
    kept = user_cache_path("deid") / "models" / content
    if _holds(kept, content):
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(tracking_uri())
    with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
        try:
            got = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=scratch))
        except (MlflowException, OSError) as error:
            raise DeidError(
                f"{version.name} version {version.version}: its files cannot be fetched "
                f"({' '.join(str(error).split())[:200]}); {REMEDY}"
            ) from error
        if not (got / PACKED).is_dir():
            raise DeidError(
                f"{version.name} version {version.version}: its files are gone; {REMEDY}"
            )
        if not _holds(kept, content):  # else another process was faster, and reads it
            shutil.rmtree(kept, ignore_errors=True)
            with suppress(OSError):
                got.rename(kept)
    return kept


def _holds(folder: Path, content: str) -> bool:
    """Whether a fetched model is there, and whole."""
    try:
        return content_sha256(read_bundle(folder / PACKED)) == content
    except DeidError:
        return False
