"""The alias `champion`: who holds it, who gets it, and the way back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deid.batch.bundle import Bundle
from deid.errors import DeidError
from deid.params import RegisterParams
from deid.registry.files import registered
from deid.registry.gates import failed_gates, metrics_table
from deid.registry.versions import (
    CHALLENGER,
    CHAMPION,
    FIRST,
    PREVIOUS,
    PROMOTED,
    VALIDATION,
    WITHDRAWN,
    aliases_of,
    figures_of,
    tag_validation,
)
from deid.tracking import mlflow_client, store_errors

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


@dataclass(frozen=True)
class Contest:
    """A challenger's figures beside the champion's, and the gates that it fails."""

    challenger: int
    failures: list[str]
    table: str


@store_errors()
def contest(params: RegisterParams) -> Contest:
    """Hold the challenger against the gates and the champion; changes nothing but its tags."""
    client = mlflow_client()
    aliases = aliases_of(client, params.model)
    if CHALLENGER not in aliases:
        raise DeidError(
            f"{params.model}: there is no challenger; train another model with `dvc repro`"
        )
    challenger = client.get_model_version(params.model, aliases[CHALLENGER])
    promoted = _promoted(client, params.model, aliases)
    figures = figures_of(challenger)
    failures = failed_gates(params.gates, figures, promoted)
    tag_validation(client, challenger, failures)
    table = metrics_table(params.gates, figures, promoted[-1] if promoted else None)
    return Contest(int(challenger.version), failures, table)


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
    return [figures_of(version) for version in versions]


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
    old = aliases_of(client, model).get(CHAMPION, FIRST)
    client.set_model_version_tag(model, str(judged.challenger), PROMOTED, old)
    client.set_registered_model_alias(model, CHAMPION, str(judged.challenger))
    return _finish_promotion(client, model) or f"{model} version {judged.challenger} is {CHAMPION}"


def _finish_promotion(client: "MlflowClient", model: str) -> str | None:
    """What follows the move of `champion`, also where a promotion was killed there; None where none
    is unfinished. The version itself says after which it came, so that no kill loses the way back.
    """
    aliases = aliases_of(client, model)
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
    aliases = aliases_of(client, params.model)
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
    alias = aliases_of(mlflow_client(), model).get(CHAMPION)
    return None if alias is None else int(alias)


@store_errors()
def champion_bundle(model: str) -> Bundle | None:
    """The champion's files, local (downloaded if need be); None without a champion."""
    return None if champion_version(model) is None else registered(CHAMPION, model).bundle
