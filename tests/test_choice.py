"""`--model`: which model draws the faces, and how its outputs say so."""

import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest

import deid.worlds
from deid.batch import bundle
from deid.batch.executor import InProcess
from deid.batch.plan import locate
from deid.batch.project import open_pipeline
from deid.batch.run import run_batch
from deid.batch.settings import RunSettings
from deid.batch.summary import Summary
from deid.errors import DeidError
from deid.registry import promotion
from deid.registry.bundle import content_sha256, write_bundle
from deid.registry.choice import Chosen, chosen, model_name
from deid.stage_files import WEIGHTS
from deid.tracking import mlflow_client
from tests.toy import picture, toy_world
from tests.toy_registry import BETTER, Model, make_bundle, model, store

__all__ = ["model", "store"]


@pytest.fixture
def two(model: Model) -> Model:
    """Version 1, then version 2, which is champion."""
    model.register(1.0)
    model.register(2.0, **BETTER)
    promotion.promote(model.params)
    return model


def ask(model: Model, choice: str | None, world: str | None = None) -> Chosen:
    return chosen(choice, model.params.model, model.folder, world)


def test_a_version_is_chosen_by_alias_or_number_and_says_where_it_is_from(two: Model) -> None:
    name = two.params.model
    content = {n: content_sha256(make_bundle(two.folder / str(n), float(n))) for n in (1, 2)}
    for choice, version, called in [
        ("champion", 2, f"{name} version 2 (champion)"),
        ("previous", 1, f"{name} version 1 (previous)"),
        ("1", 1, f"{name} version 1"),
    ]:
        found = ask(two, choice)
        assert (found.name, found.version) == (called, str(version))
        assert found.content_sha256 == content[version]
        assert found.run_id == mlflow_client().get_model_version(name, str(version)).run_id
        origin = found.bundle.origin
        assert (origin.model, origin.version, origin.run_id) == (name, str(version), found.run_id)


def test_what_was_trained_here_what_ships_and_any_folder_can_be_chosen(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = model.folder
    with pytest.raises(DeidError, match=r"nothing was trained in .* `dvc repro`"):
        ask(model, "local", "mini")
    with pytest.raises(DeidError, match="no stages of world mini come with deid"):
        ask(model, "shipped", "mini")
    shipped, trained = make_bundle(root / "made", 1.0), make_bundle(root / "data", 2.0)
    monkeypatch.setattr(bundle, "_WORLDS", root / "package")
    write_bundle(shipped, root / "package/mini/shipped")
    (root / "params.yaml").write_text("world: {name: mini}\nregister: {model: other}\n")
    assert ask(model, None).name == "shipped"  # until somebody chooses what was trained since
    assert ask(model, "local").name == "local"
    assert ask(model, "local").bundle.stage_one == trained.stage_one
    assert ask(model, "shipped").bundle.stage_one == root / "package/mini/shipped/stage_one"
    folder = ask(model, str(root / "package/mini/shipped"))
    assert folder.content_sha256 == content_sha256(shipped)
    assert folder.bundle.origin.model == "shipped"  # the folder's name, not its place
    assert ask(model, str(root)).bundle.stage_one == trained.stage_one
    shutil.rmtree(root / "package/mini/shipped")
    assert ask(model, None).name == "local"
    write_bundle(shipped, root / "package/mini/shipped")
    shutil.rmtree(trained.stage_one)
    with pytest.raises(DeidError, match="nothing was trained"):
        ask(model, "local")
    assert model_name(root) == "other"


def test_a_model_that_is_not_there_is_told_with_what_to_do(
    two: Model, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for choice, said in [
        ("challenger", "there is no challenger .* --model shipped"),
        ("9", "version 9: not in .* `deid registry list`"),
        ("/nowhere", "neither champion.* no folder"),
    ]:
        with pytest.raises(DeidError, match=said):
            ask(two, choice)
    with pytest.raises(DeidError, match="of world mini; leave out --world"):
        ask(two, "champion", "photo")
    empty = tmp_path_factory.mktemp("empty")
    monkeypatch.chdir(empty)
    with pytest.raises(DeidError, match=r"nothing is registered .* MLFLOW_TRACKING_URI"):
        ask(two, "champion")
    assert not list(empty.iterdir()), "to ask makes no store"


def test_files_that_are_gone_or_changed_are_not_used(two: Model) -> None:
    folder = ask(two, "champion").bundle.stage_one
    stage = folder / WEIGHTS
    stage.write_bytes((make_bundle(two.folder / "x", 9.0).stage_one / WEIGHTS).read_bytes())
    with pytest.raises(DeidError, match="not those that were registered; run `deid register`"):
        ask(two, "champion")
    shutil.rmtree(folder.parents[2])
    with pytest.raises(DeidError, match=r"its files are gone .* `deid register`"):
        ask(two, "champion")


def test_a_project_for_commercial_use_holds_a_registered_model_to_its_terms(two: Model) -> None:
    before = ask(two, "champion")
    (two.folder / "params.yaml").write_text("world: {name: photo, commercial: true}\n")
    found = ask(two, "champion")
    assert (before.bundle.world.commercial, found.bundle.world.commercial) == (False, True)
    assert found.content_sha256 == before.content_sha256


Run = Callable[..., Summary]


@pytest.fixture
def run(two: Model, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Masks the faces of three pictures with the model of a choice."""
    monkeypatch.setattr(deid.worlds, "load_world", lambda _: toy_world())
    source = two.folder / "in"
    source.mkdir()
    for seed in range(3):
        (source / f"{seed}.png").write_bytes(picture(seed))

    def run(choice: str | None, update: bool = False) -> Summary:
        places = locate(str(source), str(two.folder / "out"))
        asked, found = RunSettings(method="mask"), ask(two, choice, "mini").bundle
        return run_batch(places, lambda at: InProcess(open_pipeline(found, asked, update), at))

    return run


def records(two: Model) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (two.folder / "out/manifest.jsonl").open()]


def test_every_record_and_the_summary_name_version_run_and_content(two: Model, run: Run) -> None:
    run("champion")
    found = ask(two, "champion")
    origin = {
        "model": two.params.model,
        "version": "2",
        "run_id": found.run_id,
        "content_sha256": found.content_sha256,
    }
    assert [record["origin"] for record in records(two)] == [origin] * 3
    page = (two.folder / "out/summary.html").read_text()
    for part in (f"{two.params.model} version 2", str(found.run_id), found.content_sha256):
        assert part in page


def test_a_promotion_makes_no_output_again_unless_that_is_asked_for(two: Model, run: Run) -> None:
    run("champion")
    before = (two.folder / "out/manifest.jsonl").read_bytes()
    two.register(3.0, source_id_loss=0.03)
    promotion.promote(two.params)
    again = run("champion")
    assert again.counts == {"done": 3}
    assert again.notes == (
        "note: 3 done before by other versions; --update-model makes them again",
    )
    assert (two.folder / "out/manifest.jsonl").read_bytes() == before
    shutil.rmtree(two.folder / "out/.deid")  # told by the bytes, it is the same
    assert run("champion").counts == {"done": 3}
    (two.folder / "in/3.png").write_bytes(picture(3))
    assert run("champion").counts == {"done": 3, "written": 1}
    assert [record["origin"]["version"] for record in records(two)] == ["2", "2", "2", "3"]
    assert run("champion", update=True).counts == {"written": 3, "done": 1}
    assert {record["origin"]["version"] for record in records(two)} == {"3"}
    assert run("champion", update=True).counts == {"done": 4}
    assert not run("champion").notes


def test_stages_trained_anew_without_a_registry_make_outputs_again(two: Model, run: Run) -> None:
    make_bundle(two.folder / "data", 5.0)
    (two.folder / "params.yaml").write_text("world: {name: mini}\n")
    assert run("local").counts == {"written": 3}
    assert run("local").counts == {"done": 3}
    make_bundle(two.folder / "data", 6.0)
    assert run("local").counts == {"written": 3}
    assert run("champion").counts == {"written": 3}, "from no registry to one is another choice"
