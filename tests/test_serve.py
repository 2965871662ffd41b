"""The registry: equal content is one version, aliases move by the gates alone, a version serves."""

import base64
import io
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import deid.batch.pipeline
import deid.tracking
import deid.worlds
from deid.batch.bundle import Bundle
from deid.errors import DeidError
from deid.params import AnonymizeParams, Gates
from deid.registry import promotion
from deid.registry.bundle import content_sha256, read_bundle, write_bundle
from deid.registry.files import PACKED, files_state, local_files
from deid.registry.gates import FIGURES, failed_gates, read_metrics
from deid.registry.register import register, standing
from deid.stage_files import WEIGHTS
from deid.tracking import mlflow_client
from tests.disk import files_written
from tests.toy import picture, toy_world
from tests.toy_registry import BETTER, Model, figures, make_bundle, model, store, write_metrics

__all__ = ["model", "picture", "store"]


def test_good_figures_pass_every_gate() -> None:
    assert failed_gates(Gates(), figures()) == []
    assert failed_gates(Gates(), figures(**BETTER), [figures()]) == []


def test_the_default_method_and_reidentification_are_gated_in_the_selecting_recognizer() -> None:
    keys = {figure.key for figure in FIGURES}
    for method in ("table1.adversarial", "table2.swap"):
        for name in ("id_similarity_selecting", "reidentification_selecting", "detect_rate"):
            assert f"{method}.{name}" in keys
    assert not {key for key in keys if key.endswith((".id_similarity", ".reidentification"))}


@pytest.mark.parametrize(
    ("figure", "value"),
    [
        ("table1.adversarial.id_similarity_selecting", 0.51),
        ("table2.swap.id_similarity_selecting", 0.51),
        ("table2.swap.reidentification_selecting", 0.06),
        ("table1.adversarial.detect_rate", 0.98),
        ("table2.swap.source_id_loss", 0.11),
    ],
)
def test_a_figure_beyond_its_limit_fails_its_gate_alone(figure: str, value: float) -> None:
    gate = next(f.gate for f in FIGURES if f.key == figure)
    (failure,) = failed_gates(Gates(), figures() | {figure: value})
    assert failure.startswith(f"{gate}: {figure} ")
    assert f"{value:.4g}" in failure


def test_a_figure_that_is_not_a_number_or_missing_never_passes() -> None:
    key = FIGURES[0].key
    assert len(failed_gates(Gates(), figures() | {key: math.nan})) == 1
    assert len(failed_gates(Gates(), {})) == len(FIGURES)
    assert len(failed_gates(Gates(), figures(), [{}])) == len(FIGURES) + 1


def test_a_regression_is_a_share_of_the_limit_and_fails_however_good_the_figure_is() -> None:
    key, loss = FIGURES[0].key, "table2.swap.source_id_loss"

    def failed(changed: str, value: float) -> list[str]:
        better = {"table2.swap.reidentification_selecting": 0.0}
        return failed_gates(Gates(), figures() | better | {changed: value}, [figures()])

    (failure,) = failed(key, 0.26)
    assert failure.startswith(f"max_regression: {key}")
    assert failed(key, 0.24) == []
    assert failed(key, -0.5) == []  # much better
    assert failed(loss, 0.059) == []
    (failure,) = failed(loss, 0.07)  # half of what a similarity may lose, on its own scale
    assert failure.startswith(f"max_regression: {loss}")


def test_small_regressions_do_not_add_up_over_promotions() -> None:
    key, better = FIGURES[0].key, {"table2.swap.source_id_loss": 0.03}
    past = [figures(), figures() | {key: 0.24, "table2.swap.source_id_loss": 0.04}]
    (failure,) = failed_gates(Gates(), figures() | better | {key: 0.28}, past)
    assert failure.startswith(f"max_regression: {key} is 0.28, the best champion's is 0.2")


def test_an_equal_challenger_is_not_promoted() -> None:
    (failure,) = failed_gates(Gates(), figures(), [figures()])
    assert failure == "no gated figure is better than the champion's"


def test_missing_figures_are_named(tmp_path: Path) -> None:
    with pytest.raises(DeidError, match="no such file"):
        read_metrics(tmp_path / "metrics.json")
    (tmp_path / "metrics.json").write_text('{"table1": {"adversarial": {"detect_rate": 1.0}}}')
    with pytest.raises(DeidError, match=r"table1\.adversarial\.id_similarity_selecting is missing"):
        read_metrics(tmp_path / "metrics.json")


def test_content_is_names_bytes_and_settings_but_neither_place_nor_time(tmp_path: Path) -> None:
    one, other = make_bundle(tmp_path / "a", 1.0), make_bundle(tmp_path / "b", 1.0)
    (other.stage_one / "losses.csv").write_text("step,total\n")
    assert content_sha256(one) == content_sha256(other)
    (tmp_path / "a/calibration.json").write_text("{}")  # thresholds of the world's judges
    assert content_sha256(one) != content_sha256(other)
    write_bundle(one, tmp_path / "packed")
    assert (tmp_path / "packed/calibration.json").read_text() == "{}"
    assert content_sha256(read_bundle(tmp_path / "packed")) == content_sha256(one)
    stronger = Bundle(one.stage_one, one.stage_two, one.world, AnonymizeParams(pgd_steps=11))
    changed = make_bundle(tmp_path / "c", 2.0)
    assert len({content_sha256(b) for b in (one, stronger, changed)}) == 3


def test_an_untrained_model_is_not_registered(model: Model) -> None:
    bundle = make_bundle(model.folder, 1.0)
    metrics, out = write_metrics(model.folder / "m.json", bundle), model.folder / "out.json"
    (bundle.stage_two / WEIGHTS).unlink()
    with pytest.raises(DeidError, match="stage_two"):
        register(model.params, bundle, metrics, out)
    assert not out.exists()
    assert promotion.champion_version(model.params.model) is None


def test_the_first_version_is_champion_and_equal_content_is_never_doubled(model: Model) -> None:
    first = model.register(1.0)
    written = (model.folder / "out.json").read_bytes()
    assert (first.version, first.alias, first.validation) == (1, "champion", "passed")
    assert model.register(1.0) == first
    assert (model.folder / "out.json").read_bytes() == written
    assert len(mlflow_client().search_model_versions(f"name='{model.params.model}'")) == 1
    second = model.register(2.0)
    assert (second.version, second.alias) == (2, "challenger")
    assert model.aliases() == {"champion": 1, "challenger": 2}


def test_figures_of_another_model_or_other_settings_register_nothing(model: Model) -> None:
    bundle, other = (make_bundle(model.folder / str(v), v) for v in (1.0, 2.0))
    stronger = replace(bundle, anonymize=AnonymizeParams(pgd_steps=11))
    elsewhere = replace(bundle, world=other.world)  # networks of the world were swapped since
    out = model.folder / "out.json"
    for measured in (other, stronger, elsewhere):
        metrics = write_metrics(model.folder / "m.json", measured)
        with pytest.raises(DeidError, match="measured on another model, networks or settings"):
            register(model.params, bundle, metrics, out)
    assert not out.exists()
    assert promotion.champion_version(model.params.model) is None


def test_a_first_version_that_fails_a_gate_is_no_champion(model: Model) -> None:
    first = model.register(1.0, detect_rate=0.5)
    assert (first.version, first.alias, first.validation) == (1, "challenger", "failed")
    assert model.aliases() == {"challenger": 1}


def test_the_record_says_how_a_version_stands_now_and_not_when_it_was_written(
    model: Model,
) -> None:
    """DVC does not run `register` again where nothing changed; the alias has changed meanwhile."""
    record = model.folder / "out.json"
    model.register(1.0)
    model.register(2.0, **BETTER)
    written = record.read_bytes()
    assert standing(record).alias == "challenger"
    promotion.promote(model.params)
    assert standing(record).alias == "champion"
    promotion.rollback(model.params)
    assert standing(record).alias == "withdrawn"
    assert model.register(2.0, **BETTER).alias == "withdrawn"
    assert record.read_bytes() == written


def test_a_failed_gate_moves_no_alias_and_says_why(model: Model) -> None:
    model.register(1.0)
    assert model.register(2.0, id_similarity_selecting=0.61).validation == "failed"
    with pytest.raises(DeidError, match=r"max_id_similarity: .* is 0\.61, must be ≤ 0\.5"):
        promotion.promote(model.params)
    assert model.aliases() == {"champion": 1, "challenger": 2}
    version = mlflow_client().get_model_version(model.params.model, "2")
    assert version.tags["validation"] == "failed"
    assert "max_regression" in version.tags["validation_reason"]


def test_promotion_keeps_the_old_champion_and_rollback_brings_it_back(model: Model) -> None:
    model.register(1.0)
    model.register(2.0, **BETTER)
    assert "version 2 is champion" in promotion.promote(model.params)
    assert model.aliases() == {"champion": 2, "previous": 1}
    with pytest.raises(DeidError, match="no challenger"):
        promotion.promote(model.params)
    assert "version 1 is champion again" in promotion.rollback(model.params)
    assert model.aliases() == {"champion": 1}
    with pytest.raises(DeidError, match="no previous champion"):
        promotion.rollback(model.params)


def test_a_version_that_was_rolled_back_does_not_return(model: Model) -> None:
    model.register(1.0)
    model.register(2.0, **BETTER)
    promotion.promote(model.params)
    promotion.rollback(model.params)
    assert model.register(2.0, **BETTER).alias == "withdrawn"
    with pytest.raises(DeidError, match="no challenger"):
        promotion.promote(model.params)
    assert model.aliases() == {"champion": 1}


def test_a_rollback_beside_a_registration_is_not_undone(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deid.registry import register as registration

    model.register(1.0)
    model.register(2.0, **BETTER)
    promotion.promote(model.params)

    def beside(*given: Any) -> str:
        promotion.rollback(model.params)
        return card(*given)

    card = registration.model_card
    monkeypatch.setattr(registration, "model_card", beside)
    assert model.register(2.0, **BETTER).alias == "withdrawn"
    assert model.aliases() == {"champion": 1}


def test_no_alias_moves_to_a_version_whose_files_are_gone(model: Model) -> None:
    def lose(version: str) -> Path:
        source = str(mlflow_client().get_model_version(model.params.model, version).source)
        lost = Path(source.removeprefix("file://")) / PACKED
        return Path(shutil.move(lost, lost.with_name("lost")))

    model.register(1.0)
    model.register(2.0, **BETTER)
    lost = lose("2")
    with pytest.raises(DeidError, match="version 2: its files are gone; run `deid register`"):
        promotion.promote(model.params)
    assert model.aliases() == {"champion": 1, "challenger": 2}
    lost.rename(lost.with_name("bundle"))
    promotion.promote(model.params)
    lose("1")
    with pytest.raises(DeidError, match="version 1: its files are gone"):
        promotion.rollback(model.params)
    assert model.aliases() == {"champion": 2, "previous": 1}


def test_new_figures_of_the_same_content_count(model: Model) -> None:
    model.register(1.0)
    model.register(2.0, detect_rate=0.5)
    assert model.register(2.0, **BETTER).version == 2
    assert "version 2 is champion" in promotion.promote(model.params)


def test_an_experiment_becomes_a_version_but_gets_no_alias_until_someone_promotes_it(
    model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model.register(1.0)
    model.register(2.0, detect_rate=0.5)
    before = model.aliases()
    project = Path.cwd()
    with monkeypatch.context() as patch:
        patch.setenv("DVC_EXP_NAME", "wild-idea")
        patch.setenv("DVC_ROOT", str(project))
        patch.chdir(tmp_path_factory.mktemp("copy"))  # as `dvc exp run --temp` does
        tried = model.register(3.0, **BETTER)
        assert not list(Path.cwd().iterdir())
    assert (tried.version, tried.alias, tried.validation) == (3, "", "passed")
    assert model.aliases() == before == {"champion": 1, "challenger": 2}
    version = mlflow_client().get_model_version(model.params.model, "3")
    assert version.tags["experiment"] == "wild-idea"
    assert standing(model.folder / "out.json").alias == ""
    promotion.promote(model.params, "3")
    assert model.aliases() == {"champion": 3, "previous": 1, "challenger": 2}


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_registering_again_puts_back_the_files_that_a_version_lost(
    model: Model, damage: str
) -> None:
    done = model.register(1.0)
    client = mlflow_client()
    version = client.get_model_version(model.params.model, "1")
    folder = local_files(client, version)
    if damage == "gone":
        shutil.rmtree(folder)
    else:
        (folder / "artifacts/bundle/stage_one" / WEIGHTS).write_bytes(b"no weights")
    assert files_state(client, version) == damage
    assert model.register(1.0) == done
    assert files_state(client, version) == "whole"
    assert len(client.search_model_versions(f"name='{model.params.model}'")) == 1


def pixels(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


@pytest.fixture
def champion(model: Model, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A champion on the toy world, loaded after what it was made from is gone."""
    model.register(1.0)
    for file in (model.folder / "1.0").rglob("*.safetensors"):
        file.unlink()
    monkeypatch.setattr(deid.worlds, "load_world", lambda _: toy_world())
    mlflow.set_tracking_uri(deid.tracking.tracking_uri())
    return mlflow.pyfunc.load_model(f"models:/{model.params.model}@champion")


def test_a_served_picture_has_its_face_changed_and_the_rest_kept(champion: Any) -> None:
    sent = [picture(1), picture(2)]
    got = champion.predict(pd.DataFrame({"image": sent}), params={"method": "mask"})
    assert list(got.columns) == ["image", "faces", "verdict", "similarities", "level"]
    assert list(got["level"]) == [1, 1]
    assert list(got["faces"]) == [1, 1]
    assert list(got["verdict"]) == ["masked", "masked"]
    for before, after in zip(map(pixels, sent), map(pixels, got["image"]), strict=True):
        assert np.abs(before - after)[50:70, 40:56].mean() > 10
        assert np.array_equal(before[:4], after[:4])


def test_a_picture_that_cannot_be_made_safe_fails_the_whole_request(champion: Any) -> None:
    for bad in (b"not a picture", picture()[:200]):
        with pytest.raises(Exception, match="withheld: picture 1: not a whole picture"):
            champion.predict(pd.DataFrame({"image": [picture(), bad]}), params={"method": "mask"})
    with pytest.raises(Exception, match="unknown; choose one of"):
        champion.predict(pd.DataFrame({"image": [picture()]}), params={"method": "nonsense"})


def test_base64_is_served_in_python_as_bytes_are_and_other_text_is_refused(champion: Any) -> None:
    sent = picture(1)
    mask = {"method": "mask"}
    plain = champion.predict(pd.DataFrame({"image": [sent]}), params=mask)
    text = pd.DataFrame({"image": [base64.b64encode(sent).decode()]}, dtype=object)
    assert champion.predict(text, params=mask)["image"][0] == plain["image"][0]
    with pytest.raises(Exception, match="picture 0: not base64"):
        champion.predict(pd.DataFrame({"image": ["<html>"]}, dtype=object), params=mask)


def test_a_request_names_a_detector_but_no_file(
    champion: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []
    build = deid.batch.pipeline.build_pipeline

    def building(settings: Any, *rest: Any) -> Any:
        asked.append(settings.detectors)
        return build(replace(settings, detectors=()), *rest)

    monkeypatch.setattr(deid.batch.pipeline, "build_pipeline", building)
    sent = pd.DataFrame({"image": [picture(1)]})
    for named in ("yunet", "yunet,mtcnn", ""):
        champion.predict(sent, params={"method": "mask", "detector": named})
    assert asked == [("yunet",), ("yunet", "mtcnn"), ()]
    for file in ("yunet=/etc/passwd", "mtcnn,yunet=x.onnx"):
        with pytest.raises(Exception, match=r"withheld: detector 'yunet=.*names no files"):
            champion.predict(sent, params={"method": "mask", "detector": file})
    monkeypatch.undo()
    with pytest.raises(Exception, match=r"withheld: .*nonsense"):
        champion.predict(sent, params={"method": "mask", "detector": "nonsense"})


def test_where_the_key_of_a_server_lies_is_told_to_no_caller(
    champion: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DEID_KEY_FILE", str(tmp_path / "lost.key"))
    sent = pd.DataFrame({"image": [picture(1)]})
    with pytest.raises(Exception, match="withheld: the key of this server") as refused:
        champion.predict(sent, params={"method": "swap"})
    assert "lost.key" not in str(refused.value)


def test_no_file_is_written_and_no_pipeline_built_twice_for_requests(
    champion: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Methods that alternate find their pipelines again; originals stay in memory."""
    sent = pd.DataFrame({"image": [picture(1)]})
    methods = [{"method": "mask"}, {"method": "blur"}, {"method": "mask", "seed": 3}]
    built: list[str] = []
    build = deid.batch.pipeline.build_pipeline

    def building(settings: Any, *rest: Any) -> Any:
        built.append(settings.method)
        return build(settings, *rest)

    monkeypatch.setattr(deid.batch.pipeline, "build_pipeline", building)
    for method in methods:
        champion.predict(sent, params=method)
    with files_written() as written:
        for method in methods:
            champion.predict(sent, params=method)
    assert written == []
    assert built == ["mask", "blur"]


def test_one_of_several_frames_is_served_where_that_is_asked_for(champion: Any) -> None:
    frames = [Image.open(io.BytesIO(picture(seed))) for seed in (1, 2)]
    film = io.BytesIO()
    frames[0].save(film, "PNG", save_all=True, append_images=frames[1:])
    sent = pd.DataFrame({"image": [film.getvalue()]})
    with pytest.raises(Exception, match=r"withheld: picture 0: 2 frames"):
        champion.predict(sent, params={"method": "mask"})
    asked = {"method": "mask", "first_frame_only": True}
    assert list(champion.predict(sent, params=asked)["faces"]) == [1]


def test_a_version_carries_its_code_its_card_an_example_and_no_strangers_package(
    model: Model,
) -> None:
    model.register(1.0)
    version = mlflow_client().get_model_version(model.params.model, "1")
    folder = local_files(mlflow_client(), version)
    asked = (folder / "requirements.txt").read_text().splitlines()
    assert not [line for line in asked if re.split("[=<>]", line)[0] in ("deid", "face-deid")]
    assert all("==" in line and "+" not in line for line in asked)
    assert (folder / "code/deid/batch/pipeline.py").is_file()
    assert not list((folder / "code").rglob("__pycache__"))
    for file in folder.rglob("*"):
        if file.is_file():
            assert str(model.folder).encode() not in file.read_bytes(), file
    found = mlflow.models.Model.load(folder)
    example = found.load_input_example(str(folder))
    assert Image.open(io.BytesIO(example["image"][0])).size == (96, 96)
    assert {p.name for p in found.signature.params} >= {"method", "detector", "seed"}
    card = (folder / "README.md").read_text()
    assert version.description == card
    for part in ("## Limits", "## Terms", "| swap reidentification | 0.01 | ≤ 0.05 |"):
        assert part in card
    assert mlflow_client().get_registered_model(model.params.model).description


def test_rest_takes_and_gives_base64(champion: Any) -> None:
    from fastapi.testclient import TestClient
    from mlflow.pyfunc.scoring_server import init

    data = base64.b64encode(picture(3)).decode()
    body = {
        "dataframe_split": {"columns": ["image"], "data": [[data]]},
        "params": {"method": "mask"},
    }
    with TestClient(init(champion)) as client:
        answer = client.post("/invocations", json=body)
        assert answer.status_code == 200, answer.text
        (row,) = answer.json()["predictions"]
        body["dataframe_split"]["data"] = [[base64.b64encode(b"junk").decode()]]  # type: ignore[index]
        refused = client.post("/invocations", json=body)
    expected = champion.predict(pd.DataFrame({"image": [picture(3)]}), params={"method": "mask"})
    assert base64.b64decode(row["image"]) == expected["image"][0]
    assert refused.status_code == 400
    assert "Traceback" not in refused.text
    assert "picture 0: not a whole picture" in refused.json()["message"]
