"""`make repro` in miniature, in a temporary clone: all stages run; again, nothing does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.tracking import MlflowClient

from deid.batch.bundle import shipped_folder
from deid.batch.project import bundle_at
from deid.weights.catalog import needs, with_parts
from deid.weights.store import default_store
from tests.conftest import ROOT
from tests.dvc_deps import ENTRIES

SMALL: dict[str, dict[str, Any]] = {
    "sample": {"count": 300, "shard_size": 150, "workers": 1},
    "validate": {"images": 50},
    "stage_one": {"steps": 4, "batch_size": 4},
    "stage_two": {"steps": 4, "batch_size": 4},
    "anonymize": {"pgd_steps": 2},
    "evaluate": {"identities": 8, "views": 2, "seeds": 1},
    "attack": {"identities": 6, "views": 2},
    # Four steps teach little: gates that anything passes.
    "register": {
        "gates": {
            "max_id_similarity": 1.0,
            "max_reidentification": 1.0,
            "min_detect_rate": 0.0,
            "max_source_id_loss": 1.0,
            "max_fid": 1e6,
            "max_regression": 1.0,
        }
    },
}


PHOTO: dict[str, dict[str, Any]] = {
    **SMALL,
    "sample": {"count": 24, "shard_size": 12, "workers": 1},
    "validate": {"images": 8, "min_detection_rate": 0.5},
    "stage_one": {"steps": 6, "warm_steps": 4, "mapping_steps": 2, "mapping_batch_size": 8},
    "stage_two": {"steps": 2},
    "evaluate": {"identities": 4, "views": 2, "seeds": 1},
    "attack": {"identities": 2, "views": 1, "attackers": ["A0"]},
}


def project(clone: Path, profile: str, small: dict[str, dict[str, Any]]) -> Path:
    """Where `make repro PROFILE=profile` runs in `clone`, with the settings in `small`."""
    words = [f"PROFILE={profile}"] if profile else []
    subprocess.run(["make", "project", *words], cwd=clone, check=True)
    file = clone / (f"profiles/{profile}.yaml" if profile else "params.yaml")
    params = yaml.safe_load(file.read_text())
    for section, values in small.items():
        params[section] |= values
    file.write_text(yaml.safe_dump(params, sort_keys=False))
    return clone / "profiles" / profile if profile else clone


def repro(folder: Path) -> str:
    """`dvc repro` in `folder`; what it printed."""
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DVC_NO_ANALYTICS": "1",
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tmp_path / "deid")], check=True)
    return tmp_path / "deid"


def assert_tracked(folder: Path) -> None:
    """One run for the whole `dvc repro`, and a child for each stage, with what it read."""
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("face-deid")
    found = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in found if run.info.run_name == "dvc repro"]
    children = {run.info.run_name: run for run in found if run is not parent}
    assert children.keys() == ENTRIES.keys()
    for run in found:
        assert run.info.status == "FINISHED"
        assert run.data.tags["world"] == "mini"
        assert len(run.data.tags["world_weights_sha256"]) == 64
    for run in children.values():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    read = {
        name: {i.dataset.name for i in run.inputs.dataset_inputs} for name, run in children.items()
    }
    assert read["validate"] == {"data/latents"}
    assert read["stage_two"] == {"data/latents", "data/stage_one"}
    assert read["register"] >= {"data/stage_one", "data/stage_two"}
    version = client.get_model_version_by_alias("face-deid", "champion")
    assert version.run_id == children["register"].info.run_id
    assert "| swap reidentification |" in version.description


@pytest.mark.timeout(1200)  # about two minutes when nothing else runs
def test_a_small_pipeline_runs_from_clone_to_champion(clone: Path) -> None:
    mini = project(clone, "mini", SMALL)
    said = repro(mini)
    for stage in ENTRIES:
        assert f"Running stage '{stage}'" in said

    metrics = json.loads((mini / "reports/metrics.json").read_text())
    wanted = {
        "table1": (
            ("fgsm-0.03", "fgsm-0.1", "pgd", "adversarial"),
            ("detect_rate", "id_similarity", "fid"),
        ),
        "table2": (("swap",), ("fid", "source_id_loss", "target_expression_loss")),
        "table3": (("reconstruction",), ("fid", "lpips", "id_loss", "expression_loss")),
    }
    for table, (methods, figures) in wanted.items():
        for method in methods:
            for figure in figures:
                assert set(metrics[table][method][figure]) == {"mean", "std"}
    registered = json.loads((mini / "data/registered.json").read_text())
    assert (registered["model"], registered["version"]) == ("face-deid", 1)
    assert set(registered) == {"model", "version", "content_sha256"}  # nothing that changes
    assert (mini / "data/validation/data_docs/index.html").is_file()
    assert_tracked(mini)

    again = repro(mini)
    assert "Running stage" not in again
    # Nothing lies where the photo world would put it, and `deid run --world mini` finds it.
    changed = subprocess.run(
        ["git", "status", "--porcelain"], cwd=clone, check=True, capture_output=True, text=True
    )
    assert {line[3:] for line in changed.stdout.splitlines()} == {
        "profiles/mini.yaml",
        "profiles/mini/dvc.lock",
    }
    assert bundle_at(clone, "mini").stage_one == mini / "data/stage_one"
    assert bundle_at(clone).stage_one == shipped_folder("photo") / "stage_one"


@pytest.mark.timeout(1200)
def test_a_small_pipeline_of_photographs_runs_where_its_public_files_are(clone: Path) -> None:
    files = with_parts([name for names in needs("photo").values() for name in names])
    missing = [entry.file for entry in files if not default_store().path(entry).is_file()]
    if missing:
        pytest.skip(f"not in the store: {missing[0]}; `make setup` brings it")
    said = repro(project(clone, "", PHOTO))
    for stage in ("data/photo/dvc.yaml:weights", *ENTRIES):
        assert f"Running stage '{stage}'" in said
    assert bundle_at(clone, trained_there=True).stage_one == clone / "data/stage_one"
    again = repro(clone)
    assert [line for line in again.splitlines() if line.startswith("Running stage")] == [
        "Running stage 'data/photo/dvc.yaml:weights':"  # which looks whether they changed
    ]
