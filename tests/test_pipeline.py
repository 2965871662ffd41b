"""`dvc repro` in miniature, in a temporary clone: all stages run; again, nothing does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deid.params import Params, SpreadParams
from deid.weights.lock import CODE
from tests.conftest import ROOT
from tests.dvc_deps import ENTRIES, code_of, code_of_public_worlds, declared, written

SMALL: dict[str, dict[str, Any]] = {
    "sample": {"count": 300, "shard_size": 150, "workers": 1},
    "validate": {"images": 50},
    "stage_one": {"steps": 4, "batch_size": 4},
    "stage_two": {"steps": 4, "batch_size": 4},
    "anonymize": {"pgd_steps": 2},
    "evaluate": {"identities": 8, "views": 2, "seeds": 1},
    # Four steps teach little: gates that anything passes.
    "register": {
        "gates": {
            "max_id_similarity": 1.0,
            "max_reidentification": 1.0,
            "min_detect_rate": 0.0,
            "max_source_id_loss": 1.0,
            "max_regression": 1.0,
        }
    },
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


TEXT = (ROOT / "dvc.yaml").read_text()
STAGES: dict[str, Any] = yaml.safe_load(TEXT)["stages"]
UNSHAPED = {"workers", "checkpoint_every", *SpreadParams.model_fields}
"""Settings that change no byte of a result."""


@pytest.mark.parametrize("stage", sorted(ENTRIES))
def test_a_stage_depends_on_the_code_that_shapes_its_result(stage: str) -> None:
    assert declared(TEXT, stage) == code_of(stage), "run `python -m tests.dvc_deps --write`"
    assert written(TEXT) == TEXT


def test_the_code_of_a_stage_is_what_it_imports_and_nothing_else() -> None:
    sample, two = code_of("sample"), code_of("stage_two")
    for needed in ("deid/seeds.py", "deid/pixels.py", "deid/nets/stylegan2.py"):
        assert needed in sample
        assert needed in two
    assert "deid/losses.py" in two
    for room in ("gate", "batch", "audit", "imaging", "weights", "registry", "cli"):
        assert not [file for file in sample + two if file.startswith(f"deid/{room}/")]


def test_the_lock_of_a_public_world_holds_the_code_that_no_stage_names() -> None:
    places = [place.format(name=name) for place in CODE for name in ("ffhq", "photo")]
    locked = {file for place in places for file in (ROOT / "deid").glob(place)}
    stages = [code_of(stage) for stage in ENTRIES if stage != "register"]
    named = set(stages[0]).intersection(*stages[1:])
    shaping = {ROOT / file for file in set(code_of_public_worlds()) - named}
    assert ROOT / "deid/worlds/photo/faces.py" in shaping
    assert shaping <= locked
    assert ROOT / "deid/worlds/photo/weights/heads.safetensors" in locked


def test_a_stage_reruns_for_every_setting_that_shapes_its_result_and_for_no_other() -> None:
    for stage in ("sample", "stage_one", "stage_two"):
        section = type(getattr(Params(), stage))
        shaping = set(section.model_fields) - UNSHAPED - {"truncation"}  # that is the world's
        listed = {name for name in STAGES[stage]["params"] if "." in name}
        assert listed == {f"{stage}.{name}" for name in shaping}
    assert "anonymize" in STAGES["register"]["params"]


@pytest.mark.parametrize("file", ["params.yaml", "profiles/photo.yaml", "profiles/ffhq.yaml"])
def test_no_setting_is_left_to_a_default_that_dvc_would_not_see(file: str) -> None:
    given = yaml.safe_load((ROOT / file).read_text())
    for name, field in Params.model_fields.items():
        section, key = type(getattr(Params(), name)), field.alias or name
        wanted = {k for k in section.model_fields if (key, k) != ("sample", "truncation")}
        if key == "world" and given["world"]["name"] == "mini":
            wanted -= {"commercial", "files", "faces"}  # of worlds of public files
        if key == "world" and given["world"]["name"] != "photo":
            wanted -= {"resolution"}  # others have one only
        assert wanted <= given[key].keys(), key


def test_every_result_is_kept_so_that_metrics_can_be_compared_and_pulled() -> None:
    for stage in STAGES.values():
        for out in (*stage["outs"], *stage.get("metrics", [])):
            assert isinstance(out, str), "cache: false keeps nothing"


@pytest.mark.timeout(1200)  # about two minutes when nothing else runs
def test_a_small_pipeline_runs_from_clone_to_champion(tmp_path: Path) -> None:
    clone = tmp_path / "deid"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    params = yaml.safe_load((clone / "params.yaml").read_text())
    for section, values in SMALL.items():
        params[section] |= values
    (clone / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    said = repro(clone)
    for stage in ("sample", "validate", "stage_one", "stage_two", "evaluate", "report", "register"):
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
    assert (registered["model"], registered["version"]) == ("face-deid", 1)
    assert set(registered) == {"model", "version", "content_sha256"}  # nothing that changes
    assert (clone / "data/validation/data_docs/index.html").is_file()

    again = repro(clone)
    assert "Running stage" not in again
