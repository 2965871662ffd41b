"""What comes with deid is the first version; what is trained here has to beat it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from deid.batch import bundle as bundle_module
from deid.batch.bundle import FIGURES, Bundle, shipped_bundle, shipped_folder
from deid.params import Gates, RegisterParams, load_params
from deid.registry.bundle import write_bundle
from deid.registry.gates import failed_gates, read_metrics
from deid.registry.promotion import promote
from deid.registry.register import but_code, register
from deid.registry.versions import VALIDATION, aliases_of, versions_of
from deid.stage_files import WEIGHTS, content_of
from deid.tracking import mlflow_client
from tests.conftest import ROOT
from tests.test_badinput import metrics_file, small_bundle

PARAMS = RegisterParams(gates=Gates(max_slowdown=None))  # nothing here can be run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> Path:
    """An empty registry, and stages of the world mini that come with the package."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setattr(bundle_module, "_WORLDS", tmp_path / "package")
    folder = shipped_folder("mini")
    folder.mkdir(parents=True)
    write_bundle(small_bundle(tmp_path / "first/bundle"), folder)
    metrics_file(tmp_path / "first/metrics.json").rename(folder / FIGURES)
    return tmp_path


def trained(here: Path) -> Bundle:
    """Another bundle than the one that ships, over the same networks."""
    bundle = small_bundle(here / "bundle")
    save_file({"w": np.ones(4, np.float32)}, str(bundle.stage_two / WEIGHTS))
    return bundle


def figures(here: Path, **changes: float) -> Path:
    """Of what was trained here."""
    file = metrics_file(here / "metrics.json", **changes)
    of = json.loads(file.read_text())
    bundle = trained(here)
    of["measured"] = content_of(bundle.stage_one, bundle.stage_two, bundle.anonymize, bundle.world)
    file.write_text(json.dumps(of))
    return file


def test_what_ships_is_the_first_champion_and_what_is_trained_its_challenger(here: Path) -> None:
    record = here / "data/registered.json"
    for _ in range(2):  # a second call makes nothing
        done = register(PARAMS, trained(here), figures(here, fid=1.5), record)
        assert (done.version, done.alias, done.validation) == (2, "challenger", "passed")
        client = mlflow_client()
        assert aliases_of(client, PARAMS.model) == {"champion": "1", "challenger": "2"}
        assert json.loads(record.read_text())["version"] == 2
        assert list(versions_of(client, PARAMS.model)) == ["1", "2"]
    assert not list(here.rglob("*.partial"))
    assert "version 2 is champion" in promote(PARAMS)


def test_what_was_champion_once_stays_before_what_ships(here: Path) -> None:
    shipped = shipped_folder("mini").rename(here / "later")
    done = register(PARAMS, trained(here), figures(here), here / "registered.json")
    assert (done.version, done.alias) == (1, "champion")
    shipped.rename(shipped_folder("mini"))
    again = register(PARAMS, trained(here), figures(here), here / "registered.json")
    assert again == done
    assert list(versions_of(mlflow_client(), PARAMS.model)) == ["1"]


def test_what_ships_is_left_out_of_a_world_that_is_set_up_in_another_way(here: Path) -> None:
    bundle = trained(here)
    other = replace(bundle, world=bundle.world.model_copy(update={"truncation": 0.5}))
    file = figures(here)
    of = json.loads(file.read_text())
    of["measured"] = content_of(other.stage_one, other.stage_two, other.anonymize, other.world)
    file.write_text(json.dumps(of))
    done = register(PARAMS, other, file, here / "registered.json")
    assert (done.version, done.alias) == (1, "champion")


def test_what_ships_is_left_out_where_its_figures_are_of_other_faces(here: Path) -> None:
    file = figures(here)
    of = json.loads(file.read_text())
    of["about"] = {"images": 9, "identities": 3, "world": "mini", "repetitions": 1}
    file.write_text(json.dumps(of))
    done = register(PARAMS, trained(here), file, here / "registered.json")
    assert (done.version, done.alias) == (1, "champion")


def test_what_a_killed_call_with_other_content_left_is_removed(here: Path) -> None:
    left = here / "registered.json.12345678.partial"
    left.mkdir()
    (left / "packed").write_bytes(b"")
    register(PARAMS, trained(here), figures(here), here / "registered.json")
    assert not left.exists()


def test_what_ships_and_fails_its_gates_is_no_champion(here: Path) -> None:
    strict = PARAMS.model_copy(update={"gates": PARAMS.gates.model_copy(update={"max_fid": 1.0})})
    done = register(strict, trained(here), figures(here), here / "registered.json")
    client = mlflow_client()
    assert (done.version, done.alias) == (2, "challenger")
    assert aliases_of(client, PARAMS.model) == {"challenger": "2"}
    assert versions_of(client, PARAMS.model)["1"].tags[VALIDATION] == "failed"


def test_the_figures_that_ship_are_of_the_stages_that_ship_and_pass_the_gates() -> None:
    params, shipped = load_params(ROOT / "params.yaml"), shipped_bundle("photo")
    assert shipped is not None
    read = read_metrics(shipped_folder("photo") / FIGURES)
    content = content_of(shipped.stage_one, shipped.stage_two, shipped.anonymize, params.world)
    assert but_code(read.measured) == but_code(content), "measure what ships with deid evaluate"
    assert failed_gates(params.register_.gates, read.figures) == []
    assert f"of {params.evaluate.identities} people" in read.held_out
