"""A registry of models that hold one number each, for tests."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from deid.batch.bundle import Bundle
from deid.params import AnonymizeParams, RegisterParams, WorldParams
from deid.registry.gates import FIGURES
from deid.registry.register import Registration, register
from deid.stage_files import WEIGHTS, content_of
from deid.tracking import mlflow_client

GOOD = {
    "id_similarity_selecting": 0.2,
    "reidentification_selecting": 0.01,
    "detect_rate": 1.0,
    "source_id_loss": 0.05,
}
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
        "measured": content_of(bundle.stage_one, bundle.stage_two, bundle.anonymize)
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
        self.folder, self.params = folder, RegisterParams(model=folder.name)

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
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One SQLite store for the module; each test has a model name of its own."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield folder


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return Model(tmp_path)
