"""`dvc repro` in miniature, in a temporary clone: all stages run; again, nothing does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

SMALL: dict[str, dict[str, Any]] = {
    "sample": {"count": 300, "shard_size": 150, "workers": 1},
    "validate": {"images": 50},
    "stage_one": {"steps": 4, "batch_size": 4},
    "stage_two": {"steps": 4, "batch_size": 4},
    "anonymize": {"pgd_steps": 2},
    "evaluate": {"identities": 8, "views": 2, "seeds": 1},
}


def repro(clone: Path) -> str:
    """`dvc repro` in `clone`; what it printed."""
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DVC_NO_ANALYTICS": "1",
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.timeout(1200)  # about two minutes when nothing else runs
def test_a_small_pipeline_runs_from_clone_to_champion(tmp_path: Path) -> None:
    clone = tmp_path / "deid"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    params = yaml.safe_load((clone / "params.yaml").read_text())
    for section, values in SMALL.items():
        params[section] |= values
    (clone / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    said = repro(clone)
    for stage in ("sample", "validate", "stage_one", "stage_two", "evaluate", "register"):
        assert f"Running stage '{stage}'" in said

    metrics = json.loads((clone / "reports/metrics.json").read_text())
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
    registered = json.loads((clone / "data/registered.json").read_text())
    assert (registered["alias"], registered["version"]) == ("champion", 1)
    assert (clone / "data/validation/data_docs/index.html").is_file()

    again = repro(clone)
    assert "Running stage" not in again
