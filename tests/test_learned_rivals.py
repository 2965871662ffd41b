"""Rivals that are trained: their objectives by hand, in the toy world, and the networks in git."""

import pytest
import yaml

from deid.training.rivals.__main__ import TASKS
from tests.dvc_deps import HARMLESS, reached
from tests.test_layers import ROOT, modules

FOLDER = ROOT / "data/rivals"
STAGES = yaml.safe_load((FOLDER / "dvc.yaml").read_text())["stages"]
PARAMS = yaml.safe_load((FOLDER / "params.yaml").read_text())
CODES = sorted({entry["code"] for entry in PARAMS["rivals"].values()})


# How they are trained.


def code_of(entry: str) -> set[str]:
    """The files that shape what module `entry` makes, as data/rivals/dvc.yaml names them."""
    known = modules()
    files = (known[module].relative_to(ROOT) for module in reached([entry], set(HARMLESS)))
    return {f"../../{file.as_posix()}" for file in files}


def declared(stage: str) -> list[str]:
    return [dep for dep in STAGES[stage]["do"]["deps"] if "{" not in dep]


def test_pictures_depend_on_the_code_that_draws_them() -> None:
    assert declared("pictures") == sorted(code_of("deid.training.rivals.pictures"))


@pytest.mark.parametrize("code", CODES)
def test_a_rivals_stage_depends_on_the_code_that_it_runs(code: str) -> None:
    own = {f"../../deid/nets/{code}.py", f"../../deid/training/rivals/{code}.py"}
    assert code_of(f"deid.training.rivals.{code}") - set(declared("rival")) == own


def test_rivals_stages_depend_on_nothing_else() -> None:
    run = [code_of(f"deid.training.rivals.{code}") for code in CODES]
    assert declared("rival") == sorted(set(declared("rival")) & set().union(*run))


def test_every_learned_rival_is_trained_in_every_world_and_published() -> None:
    trained = {(entry["rival"], entry["world"]) for entry in PARAMS["rivals"].values()}
    assert trained == {(rival, world) for rival in TASKS for world in PARAMS["worlds"]}
    assert PARAMS["pictures"].keys() == PARAMS["worlds"].keys()
    for key, entry in PARAMS["rivals"].items():
        assert key == f"{entry['world']}-{entry['rival']}"
        assert entry["profile"] == PARAMS["pictures"][entry["world"]]["profile"]
