"""Runs in MLflow: one parent for each `dvc repro`, one child a stage, and what each came from."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deid.tracking import RUN_ID_FILE, experiment_id, git_commit, mlflow_client, shown, tracked_run
from deid.tracking.lineage import PARENT
from tests.toy_registry import store

__all__ = ["store"]


def stage(folder: Path, step: int, error: BaseException | None = None) -> str:
    """A stage that logs one loss, and dies of `error` if there is one; returns its run."""
    with tracked_run("stage", {"a": {"b": 1}}, folder) as run:
        run.metrics(step, loss=1.0 / (step + 1))
        if error is not None:
            raise error
    return run.run_id


def test_a_killed_stage_goes_on_in_its_run_and_a_finished_one_does_not(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path, 0, KeyboardInterrupt())
    begun = (tmp_path / RUN_ID_FILE).read_text()
    assert stage(tmp_path, 1) == begun
    assert not (tmp_path / RUN_ID_FILE).exists()
    client = mlflow_client()
    run = client.get_run(begun)
    assert (run.info.status, run.data.params) == ("FINISHED", {"a.b": "1"})
    assert run.data.tags["stage"] == "stage"
    history = sorted(client.get_metric_history(begun, "loss"), key=lambda metric: metric.step)
    assert [(metric.step, metric.value) for metric in history] == [(0, 1.0), (1, 0.5)]
    assert stage(tmp_path, 0) != begun


def test_processes_that_start_together_share_one_new_store(tmp_path: Path) -> None:
    code = "from deid.tracking import mlflow_client; mlflow_client()"
    both = [subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path) for _ in range(2)]
    assert [process.wait(300) for process in both] == [0, 0]


def test_a_run_says_whether_its_commit_is_all_of_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert git_commit() is None
    (tmp_path / "code.py").write_text("1")
    name = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], [*name, "commit", "-qm", "one"]):
        subprocess.run(["git", *words], check=True)
    clean = git_commit()
    assert clean is not None
    assert len(clean) == 40
    (tmp_path / "code.py").write_text("2")
    assert git_commit() == f"{clean}-dirty"


def test_a_failed_stage_is_a_failed_run_with_its_metrics(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="boom"):
        stage(tmp_path, 0, ValueError("boom"))
    run = mlflow_client().get_run((tmp_path / RUN_ID_FILE).read_text())
    assert (run.info.status, run.data.metrics["loss"]) == ("FAILED", 1.0)


STAGE = """
import os, signal, sys
from pathlib import Path
from deid.tracking import tracked_run

name, fate = sys.argv[1:]
out = Path("out", name)
with tracked_run(name, {"fate": fate}, resume=Path(f"{name}.partial")) as run:
    run.metrics(1, loss=0.5)
    run.flush()
    if fate == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fate == "failed":
        raise ValueError("boom")
    out.mkdir(parents=True)
    (out / "data.txt").write_text(name)
"""


def run_stage(name: str, fate: str) -> int:
    return subprocess.run([sys.executable, "-c", STAGE, name, fate], capture_output=True).returncode


def runs() -> list[Any]:
    """All of them, the oldest first."""
    client = mlflow_client()
    found = client.search_runs([experiment_id(client)], order_by=["attributes.start_time ASC"])
    return list(found)


@pytest.fixture
def project(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC project of two stages, the second of which reads what the first writes."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(empty_store, "mlflow.db")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "params.yaml").write_text("one: finished\ntwo: finished\n")
    python = sys.executable
    stages = {
        "one": {"cmd": f"{python} stage.py one ${{one}}", "outs": ["out/one"]},
        "two": {"cmd": f"{python} stage.py two ${{two}}", "deps": ["out/one"], "outs": ["out/two"]},
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    return tmp_path


def repro() -> int:
    command = [sys.executable, "-m", "dvc", "repro"]
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    return subprocess.run(command, env=environment, capture_output=True).returncode


def test_the_stages_of_one_repro_are_children_of_one_run_with_the_digests_of_their_data(
    project: Path,
) -> None:
    assert repro() == 0
    parent, one, two = runs()
    assert [run.info.run_name for run in (parent, one, two)] == ["dvc repro", "one", "two"]
    assert {run.info.status for run in (parent, one, two)} == {"FINISHED"}
    assert parent.info.end_time >= two.info.end_time
    for run in (one, two):
        assert run.data.tags[PARENT] == parent.info.run_id
        assert run.data.metrics["system/seconds"] > 0
        assert run.data.metrics["system/peak_memory_mib"] > 20
        assert "cores" in run.data.tags["machine"]
    lock = yaml.safe_load((project / "dvc.lock").read_text())
    (read,) = two.inputs.dataset_inputs
    (written,) = lock["stages"]["one"]["outs"]
    assert (read.dataset.name, read.dataset.digest) == ("out/one", written["md5"])
    assert not one.inputs.dataset_inputs
    assert "dvc_lock_sha256" in two.data.tags
    (project / "params.yaml").write_text("one: finished\ntwo: failed\n")
    assert repro() != 0
    again, failed = runs()[3:]
    assert failed.data.tags[PARENT] == again.info.run_id != parent.info.run_id
    assert [again.info.status, failed.info.status] == ["FAILED", "FAILED"]


def test_a_stage_alone_has_no_parent(project: Path) -> None:
    assert run_stage("alone", "finished") == 0
    (run,) = runs()
    assert PARENT not in run.data.tags
    assert run.info.status == "FINISHED"


def test_a_run_whose_process_was_killed_is_closed_unless_it_goes_on(project: Path) -> None:
    assert run_stage("one", "killed") == -signal.SIGKILL
    assert [run.info.status for run in runs()] == ["RUNNING"], "nobody was left to close it"
    assert run_stage("two", "finished") == 0
    assert [run.info.status for run in runs()] == ["KILLED", "FINISHED"]
    assert run_stage("one", "finished") == 0, "the same work goes on in its run"
    assert [run.info.status for run in runs()] == ["FINISHED", "FINISHED"]
    assert json.dumps(runs()[0].data.params) == '{"fate": "killed"}'


def test_runs_of_other_machines_and_of_living_processes_stay_open(project: Path) -> None:
    with tracked_run("outer", {}) as outer:
        client = mlflow_client()
        other = client.create_run(experiment_id(client), tags={"process": "elsewhere 1 1"})
        assert run_stage("one", "finished") == 0
        for run_id in (outer.run_id, other.info.run_id):
            assert client.get_run(run_id).info.status == "RUNNING"


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("sqlite:////a/b.db", "/a/b.db"),
        ("postgresql://u:secret@host:5432/db", "postgresql://host:5432/db"),
        ("postgresql://host/db?user=u&password=secret", "postgresql://host/db"),
        ("http://u:secret@host:5000", "http://host:5000"),
    ],
)
def test_a_stores_address_is_told_without_a_password(uri: str, told: str) -> None:
    assert shown(uri) == told
