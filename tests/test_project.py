"""Which trained stages and which world `deid run` takes, from where it is and what is asked for."""

import json
from pathlib import Path

import pytest

from deid.batch import bundle
from deid.batch.bundle import shipped_bundle
from deid.batch.project import bundle_at
from deid.errors import DeidError
from tests.conftest import ROOT


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


def test_a_project_of_the_world_keeps_its_settings_and_its_own_stages(
    tmp_path: Path, shipped: Path
) -> None:
    untrained = bundle_at(project(tmp_path / "untrained", "photo", trained=False))
    assert untrained.world.truncation == 0.5
    assert untrained.stage_one == shipped / "stage_one"
    root = project(tmp_path / "trained", "photo", trained=True)
    assert bundle_at(root).stage_one == root / "data/stage_one"


def test_another_world_than_the_projects_gets_nothing_that_was_trained_there(
    tmp_path: Path, shipped: Path
) -> None:
    root = project(tmp_path / "mini", "mini", trained=True)
    assert bundle_at(root).stage_one == root / "data/stage_one"
    assert bundle_at(root, "mini") == bundle_at(root)
    assert bundle_at(root, "photo").stage_one == shipped / "stage_one"
    other = bundle_at(project(tmp_path / "photo", "photo", trained=True), "mini")
    assert other.world.weights == ROOT / "data/mini/weights"
    assert not other.stage_one.is_dir()


def test_an_unknown_world_and_damaged_settings_are_named(tmp_path: Path, shipped: Path) -> None:
    with pytest.raises(DeidError, match="'moon': unknown"):
        bundle_at(tmp_path, "moon")
    (shipped / "settings.json").write_text("{")
    with pytest.raises(DeidError, match="shipped"):
        shipped_bundle("photo")
