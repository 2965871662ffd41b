"""What `dvc.yaml` says each stage depends on: the code, the settings, and nothing else."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from deid.params import Params, SpreadParams
from deid.weights.lock import CODE
from tests.conftest import ROOT
from tests.dvc_deps import ENTRIES, code_of, code_of_public_worlds, declared, written

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


SETTINGS = [ROOT / "params.yaml", *sorted((ROOT / "profiles").glob("*.yaml"))]


@pytest.mark.parametrize("file", SETTINGS, ids=lambda file: file.name)
def test_no_setting_is_left_to_a_default_that_dvc_would_not_see(file: Path) -> None:
    given = yaml.safe_load(file.read_text())
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
