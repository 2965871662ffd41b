"""A registry of models that hold one number each, for tests."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from deid.batch.bundle import Bundle
from deid.params import AnonymizeParams, Gates, RegisterParams, WorldParams
from deid.registry import promotion
from deid.registry.gates import FIGURES
from deid.registry.moves import TAG, Move
from deid.registry.register import Registration, register
from deid.registry.versions import FIRST, PROMOTED
from deid.stage_files import WEIGHTS, content_of
from deid.tracking import mlflow_client

GOOD = {
    "id_similarity_selecting": 0.2,
    "reidentification_selecting": 0.01,
    "detect_rate": 1.0,
    "source_id_loss": 0.05,
    "fid": 2.0,
}
UNTIMED = Gates(max_slowdown=None)  # what holds one number takes no time

BETTER = {"source_id_loss": 0.04}


def make_bundle(folder: Path, value: float) -> Bundle:
    """A bundle whose networks hold one number."""
    for name in ("stage_one", "stage_two", "weights"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        save_file({"w": np.full(4, value, np.float32)}, str(folder / name / WEIGHTS))
    world = WorldParams(weights=folder / "weights")
    return Bundle(folder / "stage_one", folder / "stage_two", world, AnonymizeParams())


def write_metrics(path: Path, bundle: Bundle, **changes: float) -> Path:
    """A metrics.json as `evaluate` writes it for `bundle`, with the gated figures only."""
    values = figures(**changes)
    content: dict[str, Any] = {
        "measured": content_of(bundle.stage_one, bundle.stage_two, bundle.anonymize, bundle.world)
    }
    for figure in FIGURES:
        table, method, name = figure.key.split(".")
        row = content.setdefault(table, {}).setdefault(method, {})
        row[name] = {"mean": values[figure.key], "std": 0.01}
    path.write_text(json.dumps(content))
    return path


class Model:
    """A registered model of its own for one test."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.params = folder, RegisterParams(model=folder.name, gates=UNTIMED)

    def register(self, value: float, **figures: float) -> Registration:
        bundle = make_bundle(self.folder / str(value), value)
        metrics = write_metrics(self.folder / "metrics.json", bundle, **figures)
        return register(self.params, bundle, metrics, self.folder / "out.json")

    def aliases(self) -> dict[str, int]:
        found = mlflow_client().get_registered_model(self.params.model).aliases
        return {alias: int(version) for alias, version in found.items()}


def figures(**changes: float) -> dict[str, float]:
    values = GOOD | changes
    return {figure.key: values[figure.key.rsplit(".", 1)[1]] for figure in FIGURES}


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Path]:
    """One SQLite store for the module; each test has a model name of its own."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        shutil.copyfile(empty_store, "mlflow.db")
        yield folder


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return Model(tmp_path)


@pytest.fixture
def fileless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Aliases move to versions of `light_model`, which have no files."""
    monkeypatch.setattr(promotion, "require_files", lambda *_: None)


def light_model(params: RegisterParams, count: int, champions: int) -> None:
    """Versions 1 to `count`, each a little better than the one before, without files; the first
    `champions` of them were champions in turn, the last is the challenger."""
    client = mlflow_client()
    moves = [
        Move("promote", str(n), str(n - 1) if n > 1 else None, str(n), number=n, done=True)
        for n in range(1, champions + 1)
    ]
    tags = {f"{TAG}{move.number:06d}": json.dumps(asdict(move)) for move in moves}
    client.create_registered_model(params.model, tags=tags)
    for number in range(1, count + 1):
        better = figures(source_id_loss=0.1 - 0.01 * number)
        tags = {key: repr(value) for key, value in better.items()}
        if number <= champions:
            tags[PROMOTED] = str(number - 1) if number > 1 else FIRST
        client.create_model_version(params.model, f"/nowhere/{number}", tags=tags)
    held = {"champion": champions, "previous": champions - 1, "challenger": count}
    for alias, number in held.items():
        client.set_registered_model_alias(params.model, alias, str(number))
