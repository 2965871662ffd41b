"""What the registry holds, as plain values: for tables, and as JSON for programs."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from deid.errors import DeidError
from deid.params import RegisterParams
from deid.registry.files import files_state, find_version
from deid.registry.gates import FIGURES, failed_gates
from deid.registry.moves import history
from deid.registry.versions import (
    CHALLENGER,
    CHAMPION,
    CONTENT,
    PREVIOUS,
    PROMOTED,
    REASON,
    RETIRED,
    VALIDATION,
    aliases_of,
    barred,
    figures_of,
    versions_of,
)
from deid.tracking import mlflow_client, shown, store_errors, store_exists, tracking_uri

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

Row = dict[str, Any]


@store_errors()
def status(params: RegisterParams) -> Row:
    """Who holds which alias, whether the champion's files are whole, and what was done last."""
    client, model = _client(params), params.model
    held, moves = aliases_of(client, model), history(client, model)
    versions = versions_of(client, model)
    unfinished = [asdict(move) for move in moves if not move.done]
    champion = versions.get(held.get(CHAMPION, ""))
    return {
        "model": model,
        "store": shown(tracking_uri()),
        "versions": len(versions),
        **{alias: held.get(alias) for alias in (CHAMPION, PREVIOUS, CHALLENGER)},
        "champion_files": files_state(client, champion) if champion else None,
        "challenger_fails": _failures(versions.get(held.get(CHALLENGER, ""))),
        "last_move": asdict(moves[-1]) if moves else None,
        "unfinished": unfinished,
    }


@store_errors()
def list_versions(params: RegisterParams) -> list[Row]:
    """Every version with its gated figures, the newest first."""
    client = _client(params)
    held = aliases_of(client, params.model)
    versions = versions_of(client, params.model).values()
    return [_row(version, held) for version in reversed(list(versions))]


@store_errors()
def show_version(params: RegisterParams, version: str) -> Row:
    """All that is known of one version, by alias or number."""
    client, model = _client(params), params.model
    found = find_version(client, model, version)
    figures = figures_of(found)
    about = [move for move in history(client, model) if str(found.version) in _versions(move)]
    return _row(found, aliases_of(client, model)) | {
        "run_id": found.run_id,
        "files": files_state(client, found),
        "source": shown(str(found.source)),
        "reason": found.tags.get(REASON, ""),
        "retired": found.tags.get(RETIRED, ""),
        "deid_version": found.tags.get("deid_version", ""),
        "gates": [
            {"figure": f.key, "value": figures.get(f.key), **f.limit(params.gates)} for f in FIGURES
        ],
        "fails": failed_gates(params.gates, figures),
        "history": [asdict(move) for move in about],
    }


@store_errors()
def moves_of(params: RegisterParams) -> list[Row]:
    """Every move of the aliases, the newest first."""
    return [asdict(move) for move in reversed(history(_client(params), params.model))]


@store_errors()
def compare(params: RegisterParams, one: str, other: str) -> Row:
    """Two versions figure by figure, and what of their settings differs."""
    client, model = _client(params), params.model
    found = [find_version(client, model, name) for name in (one, other)]
    figures = [_all_figures(client, version) for version in found]
    settings = [_settings(client, version) for version in found]
    gated = {figure.key: figure for figure in FIGURES}
    rows = []
    for key in sorted(figures[0].keys() | figures[1].keys(), key=lambda k: (k not in gated, k)):
        a, b = (values.get(key) for values in figures)
        verdict = None
        if key in gated and a is not None and b is not None:
            worse = gated[key].loss(b, a)
            verdict = "worse" if worse > 0 else "better" if worse else "same"
        rows.append({"figure": key, "one": a, "other": b, "gated": key in gated, "is": verdict})
    keys = sorted(settings[0].keys() | settings[1].keys())
    return {
        "one": _row(found[0], aliases_of(client, model)),
        "other": _row(found[1], aliases_of(client, model)),
        "figures": rows,
        "settings": [
            {"setting": key, "one": settings[0].get(key), "other": settings[1].get(key)}
            for key in keys
            if settings[0].get(key) != settings[1].get(key)
        ],
    }


def _client(params: RegisterParams) -> "MlflowClient":
    """`DeidError` where nothing is registered; to look makes no store."""
    from mlflow.exceptions import MlflowException

    missing = DeidError(
        f"{params.model}: nothing is registered in {shown(tracking_uri())}; run `dvc repro`, or "
        "name the store in MLFLOW_TRACKING_URI"
    )
    if not store_exists():
        raise missing
    client = mlflow_client()
    try:
        client.get_registered_model(params.model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise missing from None
    return client


def _row(version: "ModelVersion", held: Mapping[str, str]) -> Row:
    number, tags = str(version.version), version.tags
    made = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
    return {
        "version": int(number),
        "aliases": sorted(alias for alias, holder in held.items() if holder == number),
        "standing": barred(version) or ("former champion" if PROMOTED in tags else ""),
        "validation": tags.get(VALIDATION, ""),
        "created": made.isoformat(timespec="seconds"),
        "content_sha256": tags.get(CONTENT, ""),
        "git_commit": tags.get("git_commit", ""),
        "figures": figures_of(version),
    }


def _failures(version: "ModelVersion | None") -> str:
    return version.tags.get(REASON, "") if version else ""


def _versions(move: Any) -> set[str | None]:
    return {move.version, move.before, move.after}


def _all_figures(client: "MlflowClient", version: "ModelVersion") -> dict[str, float]:
    """Those of the run that registered it, and the gated ones, which may be newer."""
    run = client.get_run(version.run_id) if version.run_id else None
    return (dict(run.data.metrics) if run else {}) | figures_of(version)


def _settings(client: "MlflowClient", version: "ModelVersion") -> dict[str, str]:
    return dict(client.get_run(version.run_id).data.params) if version.run_id else {}
