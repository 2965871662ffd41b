"""DVC and the public files: what was made with other files is made again, and only then."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deid.errors import DeidError
from deid.params import WorldParams, load_params
from deid.weights import catalog as catalog
from deid.weights import lock
from deid.weights.entry import WeightFile
from deid.weights.lock import write_lock
from deid.weights.store import Store
from tests.conftest import ROOT

PUBLIC = ("generator", "landmarks")
COMMAND = """#!{python}
from tests import test_lock
from deid import cli
test_lock.use_two_files()
cli.main()
"""
STAGE = {"cmd": "echo drawn >> runs.txt", "deps": ["${world.weights}"], "params": ["world"]}


def use_two_files() -> None:
    """A catalog of two files whose hashes nobody published, in the place of the real one."""
    terms = {"what": "", "license": "MIT", "commercial": True, "trained_on": "", "convention": ""}
    catalog.FILES = tuple(
        WeightFile(name=role, file=f"{role}.pt", role=role, by_hand="nowhere", **terms)  # type: ignore[arg-type]
        for role in PUBLIC
    )
    catalog.WORLDS["ffhq"] = {role: (role,) for role in PUBLIC}  # type: ignore[misc]


@pytest.fixture
def two_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with both of them."""
    monkeypatch.setattr(catalog, "FILES", catalog.FILES)  # both undone at the end
    monkeypatch.setitem(catalog.WORLDS, "ffhq", catalog.WORLDS["ffhq"])
    use_two_files()
    return fill(tmp_path / "given", "first")


def fill(folder: Path, content: str) -> Path:
    folder.mkdir(exist_ok=True)
    for role in PUBLIC:
        (folder / f"{role}.pt").write_text(f"{role} {content}")
    return folder


def test_the_lock_follows_from_the_files_and_not_from_where_they_are(
    two_files: Path, tmp_path: Path
) -> None:
    params, written = WorldParams(name="ffhq"), tmp_path / "weights.json"

    def locked(folder: Path) -> bytes:
        write_lock(params, written, Store(tmp_path / f"{folder.name}.records", folder))
        return written.read_bytes()

    first = locked(two_files)
    assert locked(fill(tmp_path / "elsewhere", "first")) == first
    other = locked(fill(tmp_path / "other", "second"))
    assert other != first
    (two_files / "landmarks.pt").unlink()
    with pytest.raises(DeidError, match=r"landmarks\.pt: missing"):
        locked(two_files)
    assert written.read_bytes() == other


def test_the_lock_changes_with_the_code_of_its_world_and_no_other(
    two_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, locked = tmp_path / "deid", tmp_path / "weights.json"
    monkeypatch.setattr(lock, "PACKAGE", code)
    seen = []
    for file in ("worlds/ffhq/world.py", "worlds/photo/world.py", "worlds/public/five.csv"):
        (code / file).parent.mkdir(parents=True)
        (code / file).write_text("x = 1")
        write_lock(WorldParams(name="ffhq"), locked, Store(tmp_path / "records", two_files))
        seen.append(locked.read_bytes())
    assert seen[0] == seen[1] != seen[2]


def test_a_world_without_public_files_has_no_lock(tmp_path: Path) -> None:
    with pytest.raises(DeidError, match="no public files"):
        write_lock(WorldParams(), tmp_path / "weights.json")


def test_every_stage_depends_on_the_worlds_networks() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert all("${world.weights}" in stage["deps"] for stage in stages.values())
    for world, file in (("photo", "params.yaml"), ("ffhq", "profiles/ffhq.yaml")):
        (stage,) = yaml.safe_load((ROOT / f"data/{world}/dvc.yaml").read_text())["stages"].values()
        (watched,) = stage["outs"][0]
        assert str(load_params(ROOT / file).world.weights) == watched
    assert str(load_params(ROOT / "profiles/mini.yaml").world.weights) == "data/mini/weights"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one stage on the world's networks, and the project's own lock stage."""
    root = tmp_path / "checkout"
    for folder in (".dvc", "data/ffhq", "data/mini/weights", "bin"):
        (root / folder).mkdir(parents=True)
    (root / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"draw": STAGE}}))
    (root / "data/ffhq/dvc.yaml").write_bytes((ROOT / "data/ffhq/dvc.yaml").read_bytes())
    (root / "data/mini/weights/generator.safetensors").write_text("mini")
    command = root / "bin/deid"
    command.write_text(COMMAND.format(python=sys.executable))
    command.chmod(0o755)
    return root


def repro(checkout: Path, world: str, weights: str, given: Path) -> tuple[int, str]:
    """`dvc repro` in that world with the files in `given`: how often `draw` ran by now, and what
    was said."""
    params = {"world": {"name": world, "weights": weights}}
    (checkout / "params.yaml").write_text(yaml.safe_dump(params))
    surroundings = {
        "PATH": f"{checkout / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "DEID_WEIGHTS_DIR": str(given),
        "DEID_WEIGHTS_STORE": str(given.with_suffix(".records")),
        "DVC_NO_ANALYTICS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=checkout,
        env=os.environ | surroundings,
        capture_output=True,
        text=True,
    )
    runs = checkout / "runs.txt"
    return len(runs.read_text().split()) if runs.exists() else 0, done.stdout + done.stderr


def test_dvc_makes_again_what_was_made_with_other_files(checkout: Path, tmp_path: Path) -> None:
    ffhq = ("ffhq", "data/ffhq/weights.json")
    first, same = fill(tmp_path / "first", "one"), fill(tmp_path / "same", "one")
    assert repro(checkout, *ffhq, first)[0] == 1
    assert repro(checkout, *ffhq, same)[0] == 1
    assert repro(checkout, *ffhq, fill(tmp_path / "other", "two"))[0] == 2
    (same / "generator.pt").unlink()
    runs, said = repro(checkout, *ffhq, same)
    assert runs == 2
    assert "generator.pt: missing" in said


def test_the_embedded_world_asks_for_no_public_file(checkout: Path, tmp_path: Path) -> None:
    runs, said = repro(checkout, "mini", "data/mini/weights", tmp_path)
    assert runs == 1
    assert "deid weights lock" not in said
    assert not (checkout / "data/ffhq/weights.json").exists()
