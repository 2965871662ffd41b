"""Evaluation: each metric against an independent formula, and a whole report in the toy world."""

import json
import math
import os
import re
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm

from deid.anonymize import ModelPaths
from deid.errors import DeidError
from deid.evaluate.cells import TABLES, Bench, Cell, face_seeds, measure, pairing, produce
from deid.evaluate.columns import SELECTING, Column, columns, selecting
from deid.evaluate.faces import (
    HeldOut,
    detected,
    encode,
    first_of_each,
    held_out_faces,
    kept_faces,
)
from deid.evaluate.groups import PEOPLE, SCENES, components_of, deidentified, scenes
from deid.evaluate.measures import Measured, fid, lpips
from deid.evaluate.metrics import (
    cosine,
    frechet_distance,
    impostor_scores,
    match_rate,
    mean_absolute,
    mean_distance,
    threshold_at,
)
from deid.evaluate.plots import SHOWN, draw_figures
from deid.evaluate.report import lines, write_report
from deid.evaluate.report import report as report_page
from deid.evaluate.run import CELLS, Metrics, evaluate, evaluate_world, summarize
from deid.evaluate.spread import Cells, share_out, together
from deid.evaluate.verdicts import verdicts
from deid.faces.faces import Faces
from deid.gate.judges import world_verifier
from deid.params import AnonymizeParams, EvaluateParams, WorldParams
from deid.pixels import Pixels, to_pixels
from deid.registry.gates import FIGURES
from deid.stage_files import content_of
from deid.worlds.donors import DonorBank
from tests.dvc_deps import code_of
from tests.toy import ToyPerceptual, toy_world
from tests.toy_model import save_toy_model

WORLD = toy_world()
PARAMS = EvaluateParams(identities=6, views=3, seeds=2, batch_size=7)
ANONYMIZE = AnonymizeParams()
PROMISED: Mapping[str, tuple[list[str], list[str]]] = {
    "table1": (
        [
            *("reconstruction", "fgsm-0.03", "fgsm-0.1", "pgd", "pgd-0.1", "mifgsm-0.1"),
            *("tidim-0.1", "adversarial"),
        ],
        ["detect_rate", "id_similarity", "fid", "reidentification"],
    ),
    "table2": (["swap"], ["fid", "source_id_loss", "target_expression_loss"]),
    "table3": (["reconstruction"], ["fid", "lpips", "id_loss", "expression_loss"]),
}


class Refusing(torch.nn.Module):
    """A network of the training, which no figure may ask."""

    def forward(self, *_: object) -> torch.Tensor:
        raise AssertionError("asked by a figure of the report")

    distance = forward


def features(name: int, n: int, d: int) -> np.ndarray:
    return np.random.default_rng(name).normal(size=(n, d))


def with_moments(sample: np.ndarray, mean: np.ndarray, root: np.ndarray) -> np.ndarray:
    """`sample` moved so that its mean is exactly `mean` and its covariance `root @ root.T`."""
    centered = sample - sample.mean(0)
    whitener = np.linalg.inv(np.linalg.cholesky(np.cov(centered.T)))
    return centered @ whitener.T @ root.T + mean


class TestFrechetDistance:
    def test_of_diagonal_gaussians_is_the_closed_form(self) -> None:
        a, b = np.array([1.0, 2.0, 0.5]), np.array([0.2, 2.5, 3.0])
        shift = np.array([1.0, -2.0, 0.0])
        first = with_moments(features(0, 200, 3), np.zeros(3), np.diag(a))
        second = with_moments(features(1, 300, 3), shift, np.diag(b))
        assert frechet_distance(first, second) == pytest.approx(5.0 + np.square(a - b).sum())

    def test_of_any_gaussians_is_the_published_formula(self) -> None:
        first = features(2, 100, 6) @ features(3, 6, 6)
        second = features(4, 80, 6) @ features(5, 6, 6) + 0.5
        a, b = np.cov(first.T), np.cov(second.T)
        expected = np.square(first.mean(0) - second.mean(0)).sum()
        expected += np.trace(a + b - 2 * sqrtm(a @ b).real)
        assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)

    def test_of_a_set_with_itself_is_zero_also_with_fewer_rows_than_columns(self) -> None:
        for n, d in ((200, 10), (8, 40)):
            same = features(6, n, d)
            assert frechet_distance(same, same[::-1]) == pytest.approx(0.0, abs=1e-6)

    def test_is_symmetric_and_finite_for_constant_features(self) -> None:
        spread, constant = features(7, 50, 5), np.full((50, 5), 2.0)
        there, back = frechet_distance(spread, constant), frechet_distance(constant, spread)
        expected = np.square(spread.mean(0) - 2.0).sum() + np.trace(np.cov(spread.T))
        assert there == pytest.approx(expected)
        assert back == pytest.approx(expected)


def test_pair_distances_are_those_of_torch() -> None:
    a, b = features(0, 9, 5), features(1, 9, 5)
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    assert cosine(a, b) == pytest.approx(torch.cosine_similarity(x, y).numpy())
    assert mean_absolute(a, b) == pytest.approx(float(torch.nn.functional.l1_loss(x, y)))
    expected = float(torch.nn.functional.pairwise_distance(x, y, eps=0).mean())
    assert mean_distance(a, b) == pytest.approx(expected)


def test_impostor_scores_are_every_pair_of_different_people_once() -> None:
    e = features(2, 8, 4)
    people = np.array([0, 0, 1, 1, 1, 2, 3, 3])
    expected = [float(e[i] @ e[j]) for i in range(8) for j in range(i) if people[i] != people[j]]
    assert sorted(impostor_scores(e, people)) == pytest.approx(sorted(expected))


@pytest.mark.parametrize("far", [1e-3, 0.01, 0.5])
def test_threshold_lets_through_the_rate_and_no_more(far: float) -> None:
    scores = np.random.default_rng(3).normal(size=2_000)
    threshold = threshold_at(far, scores)
    assert (scores > threshold).mean() <= far
    lower = np.nextafter(threshold, -math.inf)
    assert (scores > lower).mean() > far - 1e-12


def test_match_rate_is_that_of_counting_by_hand() -> None:
    probes, gallery = features(4, 7, 3), features(5, 7, 3)
    people = np.array([0, 0, 0, 1, 1, 2, 3])  # 2 and 3 have one picture each
    hits = []
    for i in range(7):
        others = [j for j in range(7) if people[j] == people[i] and j != i] or [i]
        hits += [float(probes[i] @ gallery[j]) > 0.2 for j in others]
    assert len(hits) == 10
    assert match_rate(probes, gallery, people, 0.2) == pytest.approx(np.mean(hits))


@pytest.fixture(autouse=True, scope="module")
def judges_measured_once() -> Iterator[None]:
    verifier = world_verifier(WORLD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deid.evaluate.groups.world_verifier", lambda _: verifier)
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> ModelPaths:
    return save_toy_model(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def faces() -> HeldOut:
    return held_out_faces(WORLD, PARAMS, seed=0)


@pytest.fixture(scope="module")
def report(models: ModelPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("report")
    figures = evaluate_world(PARAMS, ANONYMIZE, WORLD, models, work)
    write_report(figures, WORLD, PARAMS, ANONYMIZE, work)
    return work


@pytest.fixture(scope="module")
def metrics(report: Path) -> Metrics:
    content = json.loads((report / "metrics.json").read_text())
    return {table: content[table] for table in TABLES}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("identities", "views"), [(2, 1), (2, 4), (5, 3)])
def test_every_face_gets_another_person_as_donor(identities: int, views: int, seed: int) -> None:
    params = EvaluateParams(identities=identities, views=views)
    faces = held_out_faces(WORLD, params, seed)
    shuffled = np.random.default_rng(seed).permutation(len(faces))
    faces = replace(faces, identities=faces.identities[shuffled])
    donors = pairing(faces)
    assert sorted(donors) == list(range(len(faces)))
    assert (faces.identities[donors] != faces.identities).all()


@pytest.mark.parametrize(("people", "groups"), [(1, 1), (3, 1), (8, 2), (11, 2), (90, SCENES)])
def test_the_report_has_groups_of_whole_size_or_a_single_small_one(
    people: int, groups: int
) -> None:
    made = scenes(np.zeros((people, 16, 16, 3), np.uint8))
    assert len(made) == groups
    assert made[0].shape[1] > 100 * min(people, PEOPLE)


def test_a_group_scene_shows_no_original_face(models: ModelPaths, faces: HeldOut) -> None:
    class Halves:
        """Sees a face in each half of a picture."""

        name = "halves"

        def detect(self, pictures: Sequence[Pixels]) -> list[Faces]:
            box = np.array([20.0, 40.0, 90.0, 130.0], np.float32)
            five = np.array([[38, 70], [72, 70], [55, 88], [42, 108], [68, 108]], np.float32)
            right = np.array([150.0, 0.0], np.float32)
            boxes, points = np.stack([box, box + np.tile(right, 2)]), np.stack([five, five + right])
            return [Faces(boxes, np.ones(2, np.float32), points) for _ in pictures]

    bench = Bench(WORLD, models, ANONYMIZE, 4)
    components = replace(components_of(bench), detector=Halves())
    scene = np.random.default_rng(0).integers(0, 256, (160, 320, 3)).astype(np.uint8)
    output, caption = deidentified(scene, components, 0)
    assert sum(int(part.split()[1]) for part in caption.split(", ")) == 2
    for left in (0, 150):
        face = np.s_[70:110, left + 40 : left + 70]
        assert np.abs(output[face].astype(int) - scene[face]).mean() > 10
    assert (output[:10] == scene[:10]).all()


def test_repetitions_differ_in_faces_and_seeds(faces: HeldOut) -> None:
    other = held_out_faces(WORLD, PARAMS, seed=1)
    assert not torch.equal(faces.images, other.images)
    assert not set(face_seeds(faces)) & set(face_seeds(other))


def test_a_face_counts_as_detected_only_at_its_place(faces: HeldOut) -> None:
    assert detected(WORLD, faces.images, faces.places).all()
    flat = torch.zeros_like(faces.images)
    assert not detected(WORLD, flat, faces.places).any()
    corner = np.tile(np.array([0, 0, 9, 9], dtype=np.float32), (len(faces), 1))
    assert not detected(WORLD, faces.images, corner).any()


@pytest.mark.parametrize("method", [m for methods in TABLES.values() for m in methods])
def test_batch_size_does_not_change_what_is_measured(
    method: str, models: ModelPaths, faces: HeldOut
) -> None:
    small, large = (
        produce(Bench(WORLD, models, ANONYMIZE, n), method, faces).images for n in (4, 18)
    )
    assert ((small - large).abs() < 0.02).float().mean() > 0.999  # one 8-bit step is 0.008
    levels = small.double().add(1).mul(127.5)
    assert (levels - levels.round()).abs().max() < 1e-4  # what a file would hold


def test_metrics_hold_every_promised_figure(metrics: Metrics) -> None:
    for table, (methods, figures) in PROMISED.items():
        for method in methods:
            for figure in figures:
                parts = metrics[table][method][figure]
                assert set(parts) == {"mean", "std"}
                assert all(math.isfinite(value) for value in parts.values())
                assert parts["std"] >= 0.0
    for rows in metrics.values():
        for row in rows.values():
            recognizers = {key for key in row if key.startswith("id_similarity_")}
            assert recognizers == {
                f"id_similarity_{name}" for name in [*WORLD.held_out, "attacked", "selecting"]
            }


def test_no_figure_comes_from_a_network_that_had_part_in_training(
    models: ModelPaths, faces: HeldOut, metrics: Metrics
) -> None:
    """Another perceptual network and expression trunk in training change no figure of a report."""
    other = replace(WORLD, perceptual=Refusing(), expression_trunk=Refusing())
    for table, methods in TABLES.items():
        for method in methods:
            output = produce(Bench(WORLD, models, ANONYMIZE, 7), method, faces)
            cell = measure(Bench(other, models, ANONYMIZE, 7), table, faces, output)
            assert set(cell.figures) == set(metrics[table][method])


def test_one_recognizer_selects_and_another_reports(metrics: Metrics) -> None:
    assert (WORLD.selecting, WORLD.reporting) == ("first", ("second",))
    for rows in metrics.values():
        for row in rows.values():
            for figure in ("id_similarity", "reidentification"):
                assert row[figure] == row[f"{figure}_second"]
                assert row[f"{figure}_selecting"] == row[f"{figure}_first"]


def test_gates_read_what_the_selecting_recognizer_saw(metrics: Metrics) -> None:
    for figure in FIGURES:
        table, method, name = figure.key.split(".")
        assert "mean" in metrics[table][method][name]
        assert "id_similarity" not in name or name.endswith("_selecting")


def test_the_report_says_what_it_measured(report: Path, models: ModelPaths) -> None:
    measured = json.loads((report / "metrics.json").read_text())["measured"]
    assert models.stage_two is not None
    assert measured == content_of(models.stage_one, models.stage_two, ANONYMIZE)
    other = AnonymizeParams(pgd_steps=11)
    assert measured != content_of(models.stage_one, models.stage_two, other)
    assert measured != content_of(models.stage_one, models.stage_one, ANONYMIZE)


def test_every_column_names_its_network_and_what_part_it_had(report: Path) -> None:
    named = json.loads((report / "metrics.json").read_text())["about"]["networks"]
    shown = {column.key: column.network for table in TABLES for column in columns(table, WORLD)}
    gated = {f"{name}_selecting": vars(selecting(WORLD)) for name in SELECTING}
    assert named == {key: vars(network) for key, network in shown.items()} | gated
    assert gated["id_similarity_selecting"]["name"] == "first"
    assert named["id_similarity"] == {"name": "second", "part": "no part in training or selection"}
    assert "trained" in named["id_similarity_attacked"]["part"]
    shared = replace(WORLD, metric_features=WORLD.perceptual, held_out={"first": WORLD.identity})
    honest = {column.key: column.network.part for column in columns("table1", shared)}
    assert "perceptual term" in honest["fid"]
    assert honest["id_similarity"] == "also selects models"
    page = re.sub(r'src="[^"]*"', "", (report / "index.html").read_text())
    for network in shown.values():
        assert f"{network.name}: {network.part}" in page


def test_standard_figures_stand_beside_the_worlds_own_where_their_networks_are(
    faces: HeldOut,
) -> None:
    others = faces.images.flip(0)
    standard = ToyPerceptual("standard")
    standard.fid_label, standard.lpips_label = "FID", "LPIPS (AlexNet)"
    beside = replace(WORLD, standard=standard.eval())
    found: list[dict[str, float]] = []
    for world in (WORLD, beside, replace(WORLD, metric_features=standard)):
        measured = Measured(world, 8, faces, others, encode(world, others, 8), None)
        found.append({**fid(measured), **lpips(measured)})
    own, both, alone = found
    assert both == own | {"fid_standard": both["fid_standard"], "lpips_standard": alone["lpips"]}
    pooled = [standard.pooled(x).detach().numpy() for x in (faces.images, others)]
    assert both["fid_standard"] == pytest.approx(frechet_distance(*pooled))
    headings = {c.key: c.heading for table in ("table1", "table3") for c in columns(table, beside)}
    assert (headings["fid_standard"], headings["lpips_standard"]) == ("FID", "LPIPS (AlexNet)")
    assert "fid_standard" not in {c.key for table in TABLES for c in columns(table, WORLD)}


def test_references_stand_where_they_must(metrics: Metrics) -> None:
    original, unchanged = metrics["table1"]["original"], metrics["table2"]["unchanged"]
    assert original["id_similarity"]["mean"] == pytest.approx(1.0)
    assert original["fid"]["mean"] == pytest.approx(0.0, abs=1e-6)
    assert original["detect_rate"]["mean"] == 1.0
    assert unchanged["target_expression_loss"]["mean"] == 0.0
    assert metrics["table1"]["mask"]["detect_rate"]["mean"] == 0.0
    # The attacked recognizer is fooled more by the larger ε.
    small, large = (metrics["table1"][f"fgsm-{e}"]["id_similarity_attacked"] for e in (0.03, 0.1))
    assert large["mean"] < small["mean"] < 1.0


def test_losses_are_recomputed_from_the_pictures(
    metrics: Metrics, models: ModelPaths, faces: HeldOut
) -> None:
    bench = Bench(WORLD, models, ANONYMIZE, 50)
    expected = []
    for seed in range(PARAMS.seeds):
        repetition = held_out_faces(WORLD, PARAMS, seed)
        swapped = produce(bench, "swap", repetition).images
        donors = repetition.images[torch.from_numpy(pairing(repetition))]
        expected.append(float((WORLD.identity(donors) - WORLD.identity(swapped)).abs().mean()))
    parts = metrics["table2"]["swap"]["source_id_loss"]
    assert parts["mean"] == pytest.approx(np.mean(expected), rel=1e-4)
    assert parts["std"] == pytest.approx(np.std(expected, ddof=1), rel=1e-2)


def test_of_a_banks_donors_codes_are_measured_and_no_pictures(
    models: ModelPaths, faces: HeldOut
) -> None:
    codes = torch.nn.functional.normalize(torch.randn(40, WORLD.identity.dim), dim=1)
    bank, looks = DonorBank(codes, torch.zeros(40, 3)), lambda images: images.mean((2, 3)) * 0
    bench = Bench(replace(WORLD, donors=bank, looks=looks), models, ANONYMIZE, 50)
    output = produce(bench, "swap-sampled", faces)
    assert output.donors is not None
    given = torch.from_numpy(output.donors.identity)
    assert ((given @ codes.T).max(1).values > 0.999).all()
    figures = measure(bench, "table2", faces, output).figures
    assert "source_id_loss" in figures
    assert "source_id_similarity" not in figures  # no other recognizer has seen the donors


def test_one_repetition_has_no_spread() -> None:
    cells = {(t, m, 0): Cell({"fid": 2.5}, []) for t, methods in TABLES.items() for m in methods}
    assert summarize(cells)["table1"]["pgd"] == {"fid": {"mean": 2.5, "std": 0.0}}


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    report: Path, models: ModelPaths, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    shutil.copytree(report, work)
    (work / "metrics.json").unlink()
    gone = sorted({path.stem for path in (work / CELLS).iterdir()})[1::2]
    lost = [path for path in (work / CELLS).iterdir() if path.stem in gone]
    kept = set((work / CELLS).iterdir()) - set(lost)
    stamps = {path: path.stat().st_mtime_ns for path in kept}
    for path in lost:
        path.unlink()
    evaluate_world(PARAMS, ANONYMIZE, WORLD, models, work)
    assert {path: path.stat().st_mtime_ns for path in kept} == stamps
    written = [p for p in report.rglob("*") if p.is_file()]
    assert len(written) > 30
    for path in written:
        assert (work / path.relative_to(report)).read_bytes() == path.read_bytes(), path


def toy_bench(models: ModelPaths) -> Bench:
    return Bench(toy_world(), models, ANONYMIZE, PARAMS.batch_size)


def test_processes_share_the_cells_and_change_no_byte(
    report: Path, models: ModelPaths, tmp_path: Path
) -> None:
    folder = tmp_path / CELLS
    folder.mkdir()
    for path in (report / CELLS).glob("table1-original-0.*"):
        shutil.copyfile(path, folder / path.name)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    share_out(partial(toy_bench, models), PARAMS, folder, jobs=2)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    cells = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert cells == {path.name: path.read_bytes() for path in (report / CELLS).iterdir()}


def test_a_method_is_asked_once_for_all_tables_unless_it_makes_something_else_for_one() -> None:
    keys = [("table1", "fsgan", 0), ("table2", "fsgan", 0), ("table3", "fsgan", 0)]
    ours = [("table1", "reconstruction", 0), ("table3", "reconstruction", 0)]
    other = [("table3", "reconstruction", 1)]
    assert together([*keys, *ours, *other]) == [*([key] for key in keys), ours, other]


def test_each_person_is_shown_before_anybodys_second_picture(faces: HeldOut) -> None:
    shown = first_of_each(faces, 9)
    assert shown[:6].tolist() == list(range(0, 18, PARAMS.views))
    assert shown[6:].tolist() == [1, 4, 7]
    assert len(first_of_each(faces, 100)) == len(faces)


def test_figures_show_what_was_measured(
    report: Path, models: ModelPaths, faces: HeldOut, tmp_path: Path
) -> None:
    shutil.copytree(report / CELLS, tmp_path / CELLS)
    worker = Cells.on(Bench(WORLD, models, ANONYMIZE, 7), PARAMS, tmp_path / CELLS)
    pictures = worker.pictures("table1", "fgsm-0.1")
    made = produce(worker.bench, "fgsm-0.1", faces).images[first_of_each(faces, SHOWN)]
    np.testing.assert_array_equal(pictures, to_pixels(made))
    damaged = tmp_path / CELLS / "table1-fgsm-0.1-0.safetensors"
    damaged.write_bytes(b"")
    np.testing.assert_array_equal(worker.pictures("table1", "fgsm-0.1"), pictures)


def test_faces_that_are_kept_are_those_that_were_drawn(faces: HeldOut, tmp_path: Path) -> None:
    for _ in range(2):
        kept = kept_faces(WORLD, PARAMS, 0, tmp_path)
        assert torch.equal(kept.images, faces.images)
        for one, other in (
            (kept.encoded.identity, faces.encoded.identity),
            (kept.encoded.pooled, faces.encoded.pooled),
            (kept.expression, faces.expression),
            (kept.places, faces.places),
        ):
            np.testing.assert_array_equal(one, other)
        for name, codes in faces.encoded.held_out.items():
            np.testing.assert_array_equal(kept.encoded.held_out[name], codes)
            np.testing.assert_array_equal(kept.impostors[name], faces.impostors[name])
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    assert torch.equal(kept_faces(WORLD, PARAMS, 0, tmp_path).images, faces.images)


def die() -> Bench:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_ends_the_evaluation_with_what_to_do(
    models: ModelPaths, tmp_path: Path
) -> None:
    with pytest.raises(DeidError, match=r"killed.*deid evaluate --jobs 1.*to resume"):
        share_out(die, PARAMS, tmp_path, jobs=2)


def test_the_page_stands_alone_and_names_everything(report: Path) -> None:
    page = (report / "index.html").read_text()
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == len(list((report / "figures").glob("*.png"))) == 8
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    text = re.sub(r'src="[^"]*"', "", page)
    for outside in ("http:", "https:", "//", "<script", "<link", "@import", "url("):
        assert outside not in text
    for name in [m for methods in TABLES.values() for m in methods]:
        assert f'<th scope="row">{name}' in text
    assert WORLD.metric_features.fid_label in text
    assert WORLD.metric_features.lpips_label in text
    for label in ("Inception", "AlexNet"):
        assert label not in text
    assert "0.531" in text
    assert "not comparable" in text


def test_figures_are_pictures_that_show_something(report: Path) -> None:
    for path in (report / "figures").iterdir():
        with Image.open(path) as picture:
            assert min(picture.size) >= 200
            assert np.asarray(picture.convert("L")).std() > 5


class Upended:
    """A rival that swaps and rebuilds."""

    name = "fsgan"

    def __init__(self, *_: object) -> None:
        pass

    def swap(self, donors: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
        return donors.flip(2)

    def reconstruct(self, faces: torch.Tensor) -> torch.Tensor:
        return faces.flip(2)


def test_figures_3_and_4_show_the_rivals_that_are_named(
    report: Path,
    metrics: Metrics,
    models: ModelPaths,
    faces: HeldOut,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("deid.evaluate.cells.RIVALS", {"fsgan": Upended})
    named = {
        table: {**rows, "fsgan": rows[PROMISED[table][0][0]]} for table, rows in metrics.items()
    }
    cells = {method: Cell({}, [0.5] * len(faces)) for method in (*TABLES["table1"], "swap-sampled")}
    worker = Cells.on(Bench(WORLD, models, ANONYMIZE, 7), PARAMS, report / CELLS)
    draw_figures(worker.bench, faces, named, cells, worker.pictures, tmp_path)

    def size(folder: Path, name: str) -> tuple[int, int]:
        with Image.open(folder / name) as picture:
            return picture.size

    before, after = (size(folder, "fig4.png") for folder in (report / "figures", tmp_path))
    assert before[0] == after[0]
    assert after[1] == pytest.approx(1.5 * before[1], rel=0.01)  # original, the rival, ours
    width, height = size(tmp_path, "fig3.png")
    seven, same = size(report / "figures", "fig2.png")
    assert width == pytest.approx(4 / 7 * seven, rel=0.01)  # identity, expression, the rival, ours
    assert height == same


def test_the_best_of_a_column_is_bold_and_references_are_not() -> None:
    def row(value: float) -> dict[str, dict[str, float]]:
        return {"fid": {"mean": value, "std": 0.1}}

    rows = {"original": row(0.0), "pgd": row(2.0), "blur": row(1.0), "mask": row(3.0)}
    for arrow, best in (("↓", "blur"), ("↑", "mask")):
        shown = lines("table1", rows, [Column("fid", "FID", arrow)])
        assert [line.name for line in shown if line.cells[0][1]] == [best]
    assert [line.kind for line in shown] == ["reference"] + ["ours"] * 3 + ["paper"] * 3


def changed(metrics: Metrics, table: str, method: str, figure: str, mean: float) -> Metrics:
    copy: Metrics = json.loads(json.dumps(metrics))
    copy[table][method][figure] = {"mean": mean, "std": 0.01}
    return copy


def test_verdicts_follow_the_figures(metrics: Metrics) -> None:
    metrics = changed(metrics, "table1", "fgsm-0.1", "id_similarity", 0.5)
    for mean, mark, word in (
        (0.2, "good", "lower"),
        (0.9, "bad", "higher"),
        (0.51, "even", "level"),
    ):
        first = verdicts(changed(metrics, "table1", "adversarial", "id_similarity", mean), "FID")[0]
        assert (first.mark, word in first.text) == (mark, True)
        assert f"{mean:.3f} against 0.500" in first.text
    for rate, mark in ((1.0, "good"), (0.98, "bad")):
        third = verdicts(changed(metrics, "table1", "adversarial", "detect_rate", rate), "FID")[2]
        assert third.mark == mark
    for rate, mark in ((0.001, "good"), (0.3, "bad")):
        fourth = verdicts(
            changed(metrics, "table1", "adversarial", "reidentification", rate), "FID"
        )[3]
        assert (fourth.mark, f"{rate:.1%}" in fourth.text) == (mark, True)


def test_the_stage_leaves_only_its_results_and_a_finished_run(
    models: ModelPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("deid.worlds.load_world", lambda params: WORLD)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'runs.db'}")
    params = EvaluateParams(identities=3, views=2, seeds=1)
    assert models.stage_two is not None
    out = tmp_path / "reports"
    evaluate(params, ANONYMIZE, WorldParams(), models.stage_one, models.stage_two, out)
    assert sorted(path.name for path in out.iterdir()) == ["figures", "metrics.json"]
    assert not out.with_name("reports.partial").exists()

    from deid.tracking import experiment_id, mlflow_client

    client = mlflow_client()
    (run,) = client.search_runs([experiment_id(client)])
    assert run.info.status == "FINISHED"
    logged = json.loads((out / "metrics.json").read_text())["table1"]["fgsm-0.1"]["fid"]["mean"]
    assert run.data.metrics["table1.fgsm-0.1.fid.mean"] == pytest.approx(logged)

    report_page(params, ANONYMIZE, WorldParams(), out)
    assert "<h1>Can these faces" in (out / "index.html").read_text()
    (out / "metrics.json").write_text("{}")
    with pytest.raises(DeidError, match=r"metrics\.json: not readable.*run `dvc repro evaluate`"):
        report_page(params, ANONYMIZE, WorldParams(), out)


def test_the_words_of_the_page_cost_no_new_evaluation() -> None:
    assert not {"deid/evaluate/report.html", "deid/evaluate/report.py"} & {*code_of("evaluate")}
    assert {"deid/evaluate/report.html", "deid/evaluate/report.py"} <= {*code_of("report")}
