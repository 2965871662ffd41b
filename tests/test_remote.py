"""Results on a DVC remote on S3: pushed, pulled into a second clone, compared, tried otherwise."""

import json
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from tests.servers import s3
from tests.test_flows import PIPELINE, STAGE, make_project

__all__ = ["s3"]  # a fixture
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def said(folder: Path, *command: str, code: int = 0) -> str:
    """What a command, `dvc …` or `git …`, printed."""
    scripts = str(Path(sys.executable).parent)
    environment = os.environ | {
        "PATH": os.pathsep.join([scripts, os.environ["PATH"]]),
        "DVC_NO_ANALYTICS": "1",
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    words = [sys.executable, "-m", *command] if command[0] == "dvc" else list(command)
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == code, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def small_project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two stages, in git; its figures follow `stage_two.delta`."""
    folder.mkdir()
    make_project(folder, monkeypatch)
    stage = STAGE.replace(
        '"source_id_loss": 0.05 - value / 1000', '"source_id_loss": params.stage_two.delta / 100'
    )
    (folder / "stage.py").write_text(stage)
    pipeline: Any = deepcopy(PIPELINE)
    evaluate = pipeline["stages"]["evaluate"]
    evaluate["outs"] = ["data/stage_one", "data/stage_two"]
    evaluate["metrics"] = ["reports/metrics.json"]
    evaluate["params"] = ["stage_two.delta"]
    pipeline["stages"]["register"]["outs"] = ["data/registered.json"]
    (folder / "dvc.yaml").write_text(yaml.safe_dump(pipeline))
    (folder / ".gitignore").write_text("/mlflow.db*\n/mlartifacts\n__pycache__/\n")
    (folder / ".dvc/config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    (folder / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    said(folder, "git", "init", "--quiet")


def test_a_second_clone_pulls_results_and_has_nothing_to_do(
    s3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boto3.client("s3").create_bucket(Bucket="results")
    first, second = tmp_path / "first", tmp_path / "second"
    small_project(first, monkeypatch)
    said(first, "dvc", "remote", "add", "--default", "store", "s3://results/dvc")
    endpoint = os.environ["AWS_ENDPOINT_URL_S3"]
    said(first, "dvc", "remote", "modify", "store", "endpointurl", endpoint)
    said(first, "dvc", "repro")
    said(first, "dvc", "status", "-q")  # exits with 1 where anything is to do
    said(first, "git", "add", "--all")
    said(first, "git", "commit", "--quiet", "--message", "results")
    said(first, "dvc", "push")
    said(tmp_path, "git", "clone", "--quiet", str(first), str(second))
    said(second, "dvc", "pull")
    said(second, "dvc", "status", "-q")
    assert "Running stage" not in said(second, "dvc", "repro")
    assert (second / "reports/metrics.json").read_bytes() == (
        first / "reports/metrics.json"
    ).read_bytes()

    versions = json.loads((second / "data/registered.json").read_text())
    said(second, "dvc", "exp", "run", "-S", "stage_two.delta=0.7", "evaluate")
    changed = json.loads(said(second, "dvc", "metrics", "diff", "--json"))
    assert "table2.swap.source_id_loss.mean" in changed["reports/metrics.json"]
    assert json.loads((second / "data/registered.json").read_text()) == versions
    assert not (second / "mlflow.db").exists(), "an experiment registers nothing"
