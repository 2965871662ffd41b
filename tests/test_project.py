"""Which trained stages and which world `deid run` takes, from where it is and what is asked for."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deid.batch import bundle
from deid.batch.bundle import Bundle, read_bundle, shipped_bundle
from deid.batch.project import bundle_at
from deid.errors import DeidError
from deid.model import Deidentifier
from deid.params import AnonymizeParams, WorldParams
from deid.registry import ship as ship_module
from deid.stage_files import WEIGHTS, read_description
from tests.conftest import ROOT
from tests.toy import RESOLUTION, toy_world
from tests.toy_model import save_toy_model


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stages that come with the package, of the photo world."""
    folder = tmp_path / "package/photo/shipped"
    (folder / "stage_one").mkdir(parents=True)
    settings = {"world": {"name": "photo", "truncation": 0.7}, "anonymize": {"swap_tries": 3}}
    (folder / "settings.json").write_text(json.dumps(settings))
    monkeypatch.setattr(bundle, "_WORLDS", tmp_path / "package")
    return folder


def project(folder: Path, world: str, trained: bool) -> Path:
    folder.mkdir()
    (folder / "params.yaml").write_text(f"world: {{name: {world}, truncation: 0.5}}\n")
    if trained:
        (folder / "data/stage_one").mkdir(parents=True)
    return folder


def test_where_nothing_was_trained_photographs_get_what_comes_with_deid(
    tmp_path: Path, shipped: Path
) -> None:
    found = bundle_at(tmp_path)
    assert (found.world.name, found.world.truncation) == ("photo", 0.7)
    assert found.stage_one == shipped / "stage_one"
    assert found.anonymize.swap_tries == 3


def test_a_project_of_the_world_keeps_its_settings_and_its_own_stages_are_there_to_choose(
    tmp_path: Path, shipped: Path
) -> None:
    untrained = project(tmp_path / "untrained", "photo", trained=False)
    assert bundle_at(untrained).world.truncation == 0.5
    for trained_there in (False, True):
        found = bundle_at(untrained, trained_there=trained_there)
        assert found.stage_one == shipped / "stage_one"
    root = project(tmp_path / "trained", "photo", trained=True)
    assert bundle_at(root).stage_one == shipped / "stage_one"
    assert bundle_at(root, trained_there=True).stage_one == root / "data/stage_one"
    shutil.rmtree(shipped)
    assert bundle_at(root).stage_one == root / "data/stage_one"


def test_another_world_than_the_projects_gets_nothing_that_was_trained_there(
    tmp_path: Path, shipped: Path
) -> None:
    root = project(tmp_path / "mini", "mini", trained=True)
    assert bundle_at(root).stage_one == root / "data/stage_one"
    assert bundle_at(root, "mini") == bundle_at(root)
    assert bundle_at(root, "photo").stage_one == shipped / "stage_one"
    photo = project(tmp_path / "photo", "photo", trained=True)
    other = bundle_at(photo, "mini")
    assert other.world.weights == ROOT / "data/mini/weights"
    assert not other.stage_one.is_dir()


def test_another_world_gets_what_a_profile_of_its_name_trained(
    tmp_path: Path, shipped: Path
) -> None:
    root = project(tmp_path / "photo", "photo", trained=True)
    (root / "profiles").mkdir()
    mini = project(root / "profiles/mini", "mini", trained=True)
    found = bundle_at(root, "mini")
    assert (found.stage_one, found.world.truncation) == (mini / "data/stage_one", 0.5)
    assert bundle_at(root, trained_there=True).stage_one == root / "data/stage_one"
    (root / "params.yaml").write_text("world: {name: photo, commercial: true}\n")
    assert bundle_at(root, "mini").world.commercial
    (mini / "params.yaml").write_text("world: {name: ffhq}\n")  # not what its folder says
    assert bundle_at(root, "mini").stage_one != mini / "data/stage_one"


def test_another_world_is_no_way_around_a_projects_terms(tmp_path: Path, shipped: Path) -> None:
    root = tmp_path / "commercial"
    root.mkdir()
    (root / "params.yaml").write_text("world: {name: ffhq, commercial: true}\n")
    assert bundle_at(root, "photo").world.commercial
    assert bundle_at(root, "mini").world.commercial
    assert not bundle_at(tmp_path, "photo").world.commercial


def test_an_unknown_world_and_damaged_settings_are_named(tmp_path: Path, shipped: Path) -> None:
    with pytest.raises(DeidError, match="'moon': unknown"):
        bundle_at(tmp_path, "moon")
    (shipped / "settings.json").write_text("{")
    with pytest.raises(DeidError, match="shipped"):
        shipped_bundle("photo")


def test_what_ships_draws_as_what_was_trained_and_takes_half_the_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = replace(toy_world(), name="photo")
    monkeypatch.setattr(ship_module, "load_world", lambda params: photo)
    paths = save_toy_model(tmp_path)
    assert paths.stage_two is not None
    world = WorldParams(name="photo", truncation=0.7)
    trained = Bundle(paths.stage_one, paths.stage_two, world, AnonymizeParams(swap_tries=3))
    ship_module.ship(trained, tmp_path / "shipped")
    found = read_bundle(tmp_path / "shipped")
    assert (found.world.truncation, found.anonymize.swap_tries) == (0.7, 3)
    assert "non-commercial" in read_description(found.stage_one)["license"]
    sizes = [(b.stage_one / WEIGHTS).stat().st_size for b in (trained, found)]
    assert sizes[1] < 0.6 * sizes[0]
    faces = torch.rand(3, 3, RESOLUTION, RESOLUTION) * 2 - 1
    models = [Deidentifier.load(b.stage_one, b.stage_two, toy_world()) for b in (trained, found)]
    before, after = (model.adversarial(faces) for model in models)
    assert (before - after).abs().max() < 0.05
    assert not torch.equal(before, after)
