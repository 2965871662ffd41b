"""The judges' limits are measured once, and never taken from an entry that is not whole."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deid.errors import DeidError
from deid.gate import calibration, judges
from deid.gate.judges import world_verifier
from deid.params import WorldParams
from deid.worlds import load_world
from deid.worlds.world import TestFaces, World
from tests.conftest import ROOT
from tests.toy import toy_world


class Counted:
    """The toy world's test faces, and how often they were drawn."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, people: int, views: int, seed: int) -> Any:
        self.times += 1
        return toy_world().test_faces(people, views, seed)


def drawn_for(world: World) -> tuple[int, dict[str, float]]:
    """How often faces were drawn for the verifier of `world`, and its thresholds."""
    counted = Counted()
    verifier = world_verifier(replace(world, test_faces=counted))
    return counted.times, verifier.description


@pytest.fixture
def world(tmp_path: Path) -> World:
    return replace(toy_world(), memory=tmp_path / "kept")


@pytest.fixture(scope="module")
def embedded() -> World:
    """The mini world, with the thresholds that are committed."""
    return load_world(WorldParams(weights=ROOT / "data/mini/weights"))


@pytest.fixture
def entry(world: World, tmp_path: Path) -> Path:
    """The file that a first start left."""
    drawn_for(world)
    (path,) = (tmp_path / "kept").iterdir()
    return path


def test_limits_are_measured_once(world: World) -> None:
    plain = drawn_for(replace(world, memory=None))
    assert drawn_for(world) == plain == (1, plain[1])
    assert drawn_for(world) == (0, plain[1])
    assert drawn_for(replace(world, memory=None))[0] == 1


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def damage(data: bytes) -> bytes:
        content = json.loads(data)
        change(content)
        return json.dumps(content).encode()

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data.replace(b"0.", b"0.9", 1),
        changed(lambda c: c["limits"]["first"].__setitem__(0, 1.5)),
        changed(lambda c: c["limits"]["first"].__setitem__(0, float("nan"))),
        changed(lambda c: c["limits"]["first"].__setitem__(0, "0.2")),
        changed(lambda c: c["limits"].pop("second")),
        changed(lambda c: c["limits"].update(third=[0.1, 0.9])),
        changed(lambda c: c.update(note="x")),
        changed(lambda c: c.pop("sha256")),
        lambda data: b"[" * 100_000,
    ],
)
def test_a_damaged_entry_is_measured_again_and_mended(
    world: World, entry: Path, damage: Callable[[bytes], bytes]
) -> None:
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    assert entry.read_bytes() != whole
    assert drawn_for(world)[0] == 1
    assert entry.read_bytes() == whole


def test_an_entry_under_another_name_counts_for_nothing(world: World, entry: Path) -> None:
    other = replace(world, weights_sha256="1" * 64)
    assert drawn_for(other)[0] == 1
    (second,) = set(entry.parent.iterdir()) - {entry}
    second.write_bytes(entry.read_bytes())
    assert drawn_for(other)[0] == 1


def test_what_is_shipped_is_what_would_be_measured(embedded: World) -> None:
    """`python -m deid.gate.judges` writes it."""
    assert embedded.calibration is not None
    shipped = world_verifier(replace(embedded, test_faces=no_faces)).description
    limits = judges._measured_limits(embedded, judges._test_faces(embedded))
    assert shipped.keys() == {f"mini/{name}" for name in limits}
    for name, limit in limits.items():
        assert abs(shipped[f"mini/{name}"] - limit.threshold) < 2e-3


def no_faces(people: int, views: int, seed: int) -> TestFaces:
    raise AssertionError("measured again")


def test_a_shipped_file_of_other_weights_counts_for_nothing(world: World, tmp_path: Path) -> None:
    shipped = replace(world, calibration=tmp_path / "shipped.json", memory=None)
    judges.ship_calibration(shipped)
    assert drawn_for(shipped)[0] == 0
    assert drawn_for(replace(shipped, weights_sha256="1" * 64))[0] == 1
    assert drawn_for(replace(shipped, held_out={"first": world.held_out["first"]}))[0] == 1


def test_a_threshold_is_put_where_the_confidence_bound_says() -> None:
    """Fewer people, a wider bound: the threshold is stricter than what the sample itself says."""
    rng = np.random.default_rng(0)
    strict = []
    for people in (60, 400):
        vectors = rng.normal(size=(2 * people, 16))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        identities = np.arange(2 * people) // 2
        _, impostors = calibration.pair_similarities(vectors, identities)
        threshold = calibration.measured_limit(vectors, identities).threshold
        assert (impostors > threshold).mean() > 1e-3
        strict.append(float(np.quantile(impostors, 1 - 1e-3)) - threshold)
    assert 0 < strict[1] < strict[0] < 0.1


def test_other_code_and_other_photographs_are_measured_anew(
    world: World, entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictured = replace(world, photographed=True)
    assert drawn_for(pictured)[0] == 1
    assert len(list(entry.parent.iterdir())) == 2
    monkeypatch.setattr(calibration, "_program", lambda: ["2.0"])
    assert drawn_for(world)[0] == 1


def test_a_judge_that_was_found_to_know_nobody_is_refused_again(
    world: World, entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry.unlink()
    blind = {name: calibration.Limit(0.3, 0.1) for name in world.held_out}
    monkeypatch.setattr("deid.gate.judges._measured_limits", lambda world, faces: blind)
    with pytest.raises(DeidError, match="knows only 10%"):
        world_verifier(world)
    monkeypatch.undo()
    assert entry.exists()
    with pytest.raises(DeidError, match="knows only 10%"):
        world_verifier(world)


def test_a_folder_that_cannot_be_written_costs_time_only(world: World, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file is in the way")
    assert drawn_for(world) == drawn_for(world) == drawn_for(replace(world, memory=None))
