"""The files of a registered version on this machine: fetched once, and what was registered."""

import shutil
import tempfile
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


def local_files(client: "MlflowClient", version: "ModelVersion") -> Path:
    """The MLflow model's folder: where it lies, or fetched once into the user's cache."""
    uri = client.get_model_version_download_uri(version.name, version.version)
    parsed = urlparse(uri)
    if parsed.scheme in ("", "file"):
        folder = Path(url2pathname(parsed.path))
        if not (folder / PACKED).is_dir():
            raise DeidError(
                f"{version.name} version {version.version}: its files are gone from {folder}; "
                f"{REMEDY}"
            )
        return folder
    return _fetched(uri, version)


def _fetched(uri: str, version: "ModelVersion") -> Path:
    """From another machine, kept by content: each version is fetched once."""
    import mlflow
    from mlflow.exceptions import MlflowException
    from platformdirs import user_cache_path

    kept = user_cache_path("deid") / "models" / version.tags.get(CONTENT, "unknown")
    if (kept / PACKED).is_dir():
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
        shutil.rmtree(kept, ignore_errors=True)
        try:
            got.rename(kept)
        except OSError:  # another process was faster
            if not (kept / PACKED).is_dir():
                raise
    return kept
