"""What surrounds a retraining: drift, the lock, where it runs, and what it says of itself."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock
from typer.testing import CliRunner

from deid.batch.manifest import Records
from deid.cli import app
from deid.errors import DeidError
from deid.storage.local import LocalStorage
from tests.conftest import ROOT
from tests.servers import free_port


def face(similarity: float, level: int = 1, verdict: str = "verified") -> dict[str, Any]:
    return {"similarities": {"judge": similarity}, "level": level, "verdict": verdict}


def record(folder: Path, count: int, faces: list[dict[str, Any]], version: str = "2") -> None:
    """So many pictures with these faces, as a batch with that version records them."""
    records = Records(LocalStorage(folder))
    for number in range(count):
        name = f"{len(records.names()):04d}.png"
        origin = {"model": "face-deid", "version": version}
        line = {"file": name, "status": "written", "faces": faces, "origin": origin}
        records.append(line, (str(number), ""))
    records.flush()


def test_figures_are_of_the_pictures_that_the_champion_made(tmp_path: Path) -> None:
    from flows.drift import pictures

    record(tmp_path, 3, [face(0.1)], version="1")
    record(tmp_path, 2, [face(0.2), face(0.4, level=3, verdict="masked")])
    record(tmp_path, 1, [])
    wanted = {"faces": 2, "fallback": 0.5, "masked": 0.5, "similarity": 0.4}
    assert pictures([str(tmp_path)], "face-deid", "2") == [wanted, wanted]


class Registry:
    """The part of MLflow's client that the check asks."""

    def __init__(self) -> None:
        self.tags: dict[str, str] = {}

    def get_model_version(self, model: str, version: str) -> "Registry":
        return self

    def set_model_version_tag(self, model: str, version: str, key: str, value: str) -> None:
        self.tags[key] = value


def test_the_first_pictures_are_the_reference_and_others_are_held_against_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import drift

    registry = Registry()
    monkeypatch.setattr(drift, "mlflow_client", lambda: registry)
    monkeypatch.setattr(drift, "aliases_of", lambda client, model: {"champion": "2"})
    before, same, other = (tmp_path / name for name in ("before", "same", "other"))

    def look(place: Path) -> drift.Drift:
        return drift.look("face-deid", [str(place)], tmp_path / "docs")

    record(before, drift.LEAST - 1, [face(0.1)])
    assert "99 pictures of 100" in look(before).note
    record(before, 50, [face(0.2)])
    assert "the reference of version 2 from now on" in look(before).note
    record(same, 120, [face(0.13)])
    assert look(same) == drift.Drift(120)
    record(other, 120, [face(0.13), face(0.3, level=2), face(0.3, level=4, verdict="masked")])
    changed = look(other)
    assert len(changed.changed) == 4
    assert any("masked" in line for line in changed.changed)
    assert (tmp_path / "docs/index.html").is_file()
    registry.tags[drift.REFERENCE] = "{}"
    with pytest.raises(DeidError, match="damaged"):
        look(same)


def test_two_retrainings_never_run_at_once_in_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.retrain import LOCK, retrain

    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "profiles/mini.yaml").read_text())
    LOCK.parent.mkdir(parents=True)
    with FileLock(LOCK), pytest.raises(DeidError, match="another retraining is at work"):
        retrain.fn()


def test_a_flow_runs_in_the_project_that_its_worker_was_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.place import PROJECT, enter

    monkeypatch.chdir(tmp_path)
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.delenv(PROJECT, raising=False)
    monkeypatch.setenv("PWD", str(project))
    with pytest.raises(DeidError, match=r"project: has no params\.yaml; start the worker in"):
        enter()
    (project / "params.yaml").touch()
    assert enter() == {"directory": str(project)}
    assert Path.cwd() == project
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", "/")
    monkeypatch.setenv(PROJECT, str(project))
    assert enter() == {"directory": str(project)}


def test_the_deployments_name_no_folder_of_one_machine_and_can_be_served_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from flows.serve import served

    text = (ROOT / "prefect.yaml").read_text()
    config = yaml.safe_load(text)
    assert config["pull"] == [{"flows.place.enter": {}}]
    inside = {"/project", "/weights"}  # of a container
    assert not {word for word in text.split() if word.startswith("/")} - inside
    monkeypatch.chdir(ROOT)
    here = {deployment.name: deployment for deployment in served()}
    assert set(here) == {entry["name"] for entry in config["deployments"]}
    assert here["hourly"].parameters["source"] == "data/inbox"
    assert here["on-drift"].triggers


def test_flow_status_without_a_server_says_how_to_start_one() -> None:
    api = f"http://127.0.0.1:{free_port()}/api"
    with pytest.raises(DeidError, match=r"does not answer .*prefect server start"):
        CliRunner().invoke(app, ["flows", "status", "--api", api], catch_exceptions=False)
