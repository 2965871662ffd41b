"""Attackers find whom they should find, and nobody else."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import hifd
import numpy as np
import pytest
import torch
from PIL import Image

from deid import cli
from deid.attack import scores as scores_module
from deid.attack.attackers import Seen, attack, one_person
from deid.attack.crops import GRAY, Crops
from deid.attack.gaze import EYES, iris_places
from deid.attack.hifd import Predictions, composite
from deid.attack.learned import learned_scores
from deid.attack.linkage import Kept, linked_scores
from deid.attack.pairs import Pair, open_folders, read_pairs
from deid.attack.recognizers import recognizers
from deid.attack.run import examine, exceeded
from deid.attack.scores import (
    Searched,
    clopper_pearson,
    hits,
    person_scores,
    without_own,
)
from deid.attack.settings import AttackSettings
from deid.errors import DeidError
from deid.gate.judges import Judge, Verifier
from deid.pixels import Pixels, to_pixels, to_tensor
from deid.storage.protocol import Storage, StorageFailure, Unreachable, Unread
from deid.worlds.world import World
from tests.conftest import ROOT

PEOPLE, VIEWS = 12, 3


@cache
def rendered() -> Pixels:
    """Rendered people of the mini world in several views, `uint8 [PEOPLE * VIEWS,64,64,3]`."""
    from deid.worlds.mini.test_faces import held_out_faces

    return held_out_faces(PEOPLE, VIEWS, 5).pixels


def save(folder: Path, pictures: Pixels, name: Callable[[int], str]) -> Path:
    for index, pixels in enumerate(pictures):
        file = folder / name(index)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    return folder


def in_folders(index: int) -> str:
    return f"{index // VIEWS:02}/{index % VIEWS}.png"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("originals"), rendered(), in_folders)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs that show other people, a new one in every picture."""
    from deid.worlds.mini.test_faces import held_out_faces

    strangers = held_out_faces(PEOPLE * VIEWS, 1, 77).pixels
    return save(tmp_path_factory.mktemp("others"), strangers, in_folders)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def seen_by_one(originals: np.ndarray, outputs: np.ndarray, people: np.ndarray) -> Seen:
    pixels = np.zeros((len(people), 3))
    return Seen(people, {"judge": originals}, {"judge": outputs}, None, pixels)


def rank1(found: Searched) -> float:
    made = hits(found)
    assert made is not None
    return float(made.values["rank1"].mean())


def test_outputs_that_are_the_originals_are_all_found_and_the_command_fails(
    originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    words = ["attack", str(originals), str(originals), "--world", "mini", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["deid", *words, "--max-rank1", "0.5", "--max-tar", "0.1"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert "rank-1 100.0% is more than 50.0% (guessing: 8.3%); TAR 100.0% is more than" in said.err
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["about"]["people"] == PEOPLE
    for found in metrics["attacks"]["A0"].values():
        assert found["rank1"]["value"] == found["tar"]["value"] == 1.0
        assert found["fnir"]["value"] == 0.0
    assert metrics["where"]["inside"]["A0"]["all together"]["rank1"]["value"] == 1.0
    assert metrics["utility"]["landmarks"]["value"] == 0.0
    assert metrics["quality"]["ssim"]["value"] == pytest.approx(1.0)
    page = (tmp_path / "index.html").read_text()
    assert "100.0 %" in page
    assert "http" not in page.replace("http://www.w3.org", "")  # nothing is fetched


@pytest.fixture(scope="module")
def of_others(
    world: World, originals: Path, others: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The report on outputs that show other people and do not depend on the key: made again, they
    are the same. And its metrics."""
    out = tmp_path_factory.mktemp("report")
    settings = AttackSettings(again=str(others), max_tar=0.6, min_detected=0.9, fine_tune=1)
    return out, examine(world, str(originals), str(others), out, settings)


Report = tuple[Path, dict[str, Any]]


def test_outputs_that_show_other_people_are_found_by_chance(of_others: Report) -> None:
    _, metrics = of_others
    assert "too few people" in metrics["not_tried"]["A3+"]
    for attacker in ("A0", "A1", "A2", "A2+", "A3"):
        for figures in metrics["attacks"][attacker].values():
            assert figures["rank1"]["value"] <= 0.25  # chance is 1 in 12
            assert figures["rank1"]["low"] <= figures["chance"]["rank1"]
    assert not any(f["enough_impostors"] for f in metrics["attacks"]["A0"].values())


def test_an_attacker_with_the_code_finds_who_does_not_depend_on_the_key(of_others: Report) -> None:
    _, metrics = of_others
    assert metrics["best"]["rank1"]["attacker"] == "A4"
    assert metrics["best"]["rank1"]["value"] == 1.0
    assert metrics["exceeded"] == ["TAR 100.0% is more than 60.0%"]


def test_nothing_is_written_but_figures_and_a_page_of_outputs(of_others: Report) -> None:
    out, _ = of_others
    written = {path.suffix for path in out.rglob("*") if path.is_file()}
    assert written == {".json", ".html", ".yaml"}
    assert (out / "index.html").read_text().count("data:image/jpeg") == 12


def test_the_same_examination_gives_the_same_bytes_and_no_picture_unless_asked(
    world: World, originals: Path, others: Path, of_others: Report, tmp_path: Path
) -> None:
    out, metrics = of_others
    settings = AttackSettings(again=str(others), pictures=False, compare=(out,), fine_tune=1)
    again = examine(world, str(originals), str(others), tmp_path, settings)
    assert {**again, "limits": 0, "exceeded": 0} == {**metrics, "limits": 0, "exceeded": 0}
    name = "hifd/deid/landmark_en_lnd.json"
    assert (out / name).read_bytes() == (tmp_path / name).read_bytes()
    page = (tmp_path / "index.html").read_text()
    assert "data:image/jpeg" not in page
    assert "and those it is compared with" in page


def test_hifd_makes_the_same_of_what_is_written(of_others: Report, tmp_path: Path) -> None:
    out, metrics = of_others
    folder, said = out / "hifd", metrics["hifd"]
    lists = (str(folder / f"{name}.yaml") for name in ("methods", "estimators"))
    methods, estimators = lists
    made = hifd.run_pipeline(methods, str(folder), str(tmp_path), estimators_config=estimators)
    (row,) = made.composite_df.to_dict("records")
    assert (row["P"], row["U1"]) == pytest.approx((said["P"], said["U1"]))
    assert said["Q"] is None  # mini's faces are too small for a NIQE
    assert said["profiles"] == pytest.approx({name: row[name] for name in hifd.DEFAULT_PROFILES})
    unlike = [{"embedding": [1, 0]}], [{"embedding": [0, 1]}]
    told = [
        Predictions("face_embedding", "judge", *unlike),
        Predictions("age", "En_id", [{"value": 30}], [{"value": 40}]),
    ]
    full = composite(told, lpips=0.2, niqe=3.0)
    assert (full["P"], full["Q"], full["U1"]) == pytest.approx((0.5, 0.5 * 0.8 + 0.5 * 0.4, 0.9))


def test_the_worst_group_is_held_against_all_together(of_others: Report) -> None:
    metrics = of_others[1]
    for figure in ("rank1", "tar"):
        worst, groups = metrics["worst_group"][figure], metrics["groups"]
        assert worst["value"] == groups[worst["kind"]][worst["group"]][figure]["value"]
        every = [found[figure]["value"] for of in groups.values() for found in of.values()]
        assert worst["value"] == max(every)
        assert worst["above"] == worst["value"] - metrics["best"][figure]["value"]


def test_what_is_written_for_hifd_holds_the_cosine_and_no_embedding(
    world: World, of_others: Report
) -> None:
    out, _ = of_others
    written = {path.stem for path in (out / "hifd/deid").glob("face_embedding_*")}
    assert written == {f"face_embedding_{name}" for name in world.reporting}  # HiFD takes the mean
    for name in world.reporting:
        before, after = (
            json.loads((out / f"hifd/{side}/face_embedding_{name}.json").read_text())
            for side in ("original", "deid")
        )
        assert before["schema_version"] == "1.0"
        assert (before["source"], after["source"]) == ("original", "deid")
        assert len(after["predictions"]) == PEOPLE * VIEWS
        for sample, said in after["predictions"].items():
            assert before["predictions"][sample]["embedding"] == [1.0, 0.0]
            assert np.hypot(*said["embedding"]) == pytest.approx(1.0)


def test_who_has_other_pictures_finds_what_they_share_and_not_the_very_one() -> None:
    random = np.random.default_rng(0)
    people = np.repeat(np.arange(30), 2)
    pictures = unit(random.standard_normal((60, 48)))  # two of a person have nothing in common
    searches, _ = attack(seen_by_one(pictures, pictures, people))
    assert rank1(searches["A0"]["judge"]) == 1.0
    assert rank1(searches["A0b"]["judge"]) < 0.2
    persons = unit(random.standard_normal((30, 48)))[people]
    alike = unit(persons + 0.1 * random.standard_normal((60, 48)))
    searches, _ = attack(seen_by_one(alike, alike, people))
    assert rank1(searches["A0b"]["judge"]) == 1.0
    twice = replace(seen_by_one(pictures, pictures, people), pictures=people)  # one original each
    assert "A0b" not in attack(twice)[0]
    one_each, why = attack(seen_by_one(pictures, pictures, np.arange(60)))
    assert "A0b" not in one_each
    assert why["A0b"] == "not applicable: nobody has two pictures"


def test_a_hidden_linear_map_is_found_by_who_learns_and_by_nobody_else() -> None:
    random = np.random.default_rng(0)
    originals = unit(random.standard_normal((60, 48)))
    turn = np.linalg.qr(random.standard_normal((48, 48)))[0]
    outputs = unit(originals @ turn + 0.05 * random.standard_normal((60, 48)))
    searches, _ = attack(seen_by_one(originals, outputs, np.arange(60)))
    assert rank1(searches["A0"]["judge"]) < 0.1
    assert rank1(searches["A2"]["judge"]) > 0.9
    assert rank1(searches["A3"]["judge"]) > 0.9


def linked(outputs: np.ndarray, originals: np.ndarray, people: np.ndarray) -> Searched:
    scores = linked_scores(Kept({"light": outputs}, {"light": originals}), people)
    assert scores is not None
    best = person_scores(scores, people, int(people.max()) + 1)
    return Searched(best, without_own(best, people), people)


def test_a_photograph_is_told_by_what_a_method_keeps_of_it() -> None:
    """By some of twelve components, another way round and not exactly, among much that is new."""
    random, who = np.random.default_rng(0), np.arange(80)
    originals = random.standard_normal((80, 12))
    turn = np.linalg.qr(random.standard_normal((6, 6)))[0]
    outputs = random.standard_normal((80, 12))
    outputs[:, :6] = originals[:, :6] @ turn + 0.1 * random.standard_normal((80, 6))
    assert rank1(linked(outputs, originals, who)) > 0.9
    near = np.square(outputs[:, None] - originals[None]).sum(-1).argmin(1)
    assert (near == who).mean() < 0.3, "what is to be learned is not plain to see"


@pytest.mark.parametrize(("people", "views"), [(60, 1), (24, 1), (24, 3)])
def test_nothing_kept_links_nobody(people: int, views: int) -> None:
    # Each model must have seen neither of the two people it compares, or this is 0 or 1.
    who, found = np.repeat(np.arange(people), views), []
    for seed in range(40):
        random = np.random.default_rng(seed)
        outputs, originals = random.standard_normal((2, people * views, 12))
        found.append(rank1(linked(outputs, originals, who)))
    assert 0.65 / people < np.mean(found) < 1.5 / people


@pytest.mark.parametrize(("people", "views", "dim"), [(60, 1, 256), (20, 3, 16)])
def test_who_learns_from_noise_finds_nobody(people: int, views: int, dim: int) -> None:
    # Each model must have seen neither of the two people it compares, or this is 0 or 1.
    who, found = np.repeat(np.arange(people), views), []
    for seed in range(4):
        random = np.random.default_rng(seed)
        originals = unit(random.standard_normal((people, dim))[who] + 0.3)
        outputs = unit(random.standard_normal((len(who), dim)) + 0.5)
        scores = learned_scores(outputs, originals, outputs, who)
        assert scores is not None
        found.append(rank1(Searched(scores, without_own(scores, who), who)))
    assert 0.1 / people < np.mean(found) < 2.5 / people


def test_outputs_that_are_all_alike_put_a_person_anywhere_among_the_others() -> None:
    who, places = np.arange(40), []
    for seed in range(4):
        random = np.random.default_rng(seed)
        originals = unit(random.standard_normal((40, 64)) + 0.3)
        outputs = unit(np.ones((40, 64)) + 1e-6 * random.standard_normal((40, 64)))
        scores = learned_scores(outputs, originals, outputs, who)
        assert scores is not None
        places.append((scores < scores[who, who][:, None]).mean())
    assert 0.4 < np.mean(places) < 0.6, "share of the others who are thought less likely"


def test_outputs_that_are_all_alike_are_matched_with_nobody_by_who_has_the_code() -> None:
    random = np.random.default_rng(0)
    originals = unit(random.standard_normal((40, 64)))
    outputs, again = (
        unit(np.ones((40, 64)) + 0.05 * random.standard_normal((40, 64))) for _ in range(2)
    )
    seen = replace(seen_by_one(originals, outputs, np.arange(40)), again={"judge": again})
    searches, _ = attack(seen, ["A4"])
    made = hits(searches["A4"]["judge"])
    assert made is not None
    assert made.values["tar"].mean() < 0.1


def test_answers_without_some_people_are_those_of_a_model_trained_without_them() -> None:
    from deid.attack import learned

    random = np.random.default_rng(1)
    who = np.repeat(np.arange(6), [1, 2, 3, 1, 2, 1])
    outputs, originals = (random.standard_normal((len(who), 5)) for _ in range(2))
    kernel = learned.smooth(outputs)
    scores = learned._left_out(learned.Candidate(kernel, 0.1, 1.0), outputs, originals, who)
    ridge = 0.1 * (np.trace(kernel) / len(who) - kernel.mean())
    for own in range(6):
        for other in range(6):
            second = other if other != own else (own + 1) % 6
            known = (who != own) & (who != second)
            system = kernel[np.ix_(known, known)] + ridge * np.eye(known.sum())
            weights = np.linalg.solve(system, (originals - outputs)[known])
            rows = who == own
            predicted = outputs[rows] + kernel[np.ix_(rows, known)] @ weights
            expected = (unit(predicted) @ unit(originals[who == other]).T).max(axis=1)
            np.testing.assert_allclose(scores[rows, other], expected, atol=1e-9)


def test_the_mask_is_the_same_for_all_or_it_would_tell_who_somebody_is(world: World) -> None:
    landmarks = world.landmarks(to_tensor(rendered())).double().numpy()
    pairs = [Pair(str(i), str(i), str(i)) for i in range(len(landmarks))]
    white = np.full((len(pairs), 64, 64, 3), 255, np.uint8)
    crops = Crops(pairs, white, white, None, landmarks, landmarks[:, :5], {}, {}, (), ())
    masks = [crops.masked(inside)[0] == GRAY for inside in (True, False)]
    for mask in masks:
        assert (mask == mask[0]).all()
    assert not (masks[0] & ~masks[1])[0, 0, 0].any()  # a corner is outside
    assert masks[0][0, 36, 32].all()  # the nose is inside
    assert not (~masks[0] & ~masks[1]).any()  # nothing is in both parts


def test_ties_count_as_guesses() -> None:
    people = np.arange(10)
    same = np.zeros((10, 10))
    made = hits(Searched(same, without_own(same, people), people))
    assert made is not None
    assert made.values["rank1"].mean() == pytest.approx(0.1)
    assert made.values["rank5"].mean() == pytest.approx(0.5)
    assert made.values["tar"].mean() == 0.0


def test_a_person_scores_as_their_best_picture_does() -> None:
    similarities = np.array([[0.1, 0.9, 0.3], [0.4, 0.2, -np.inf]])
    best = person_scores(similarities, np.array([0, 0, 1]), 2)
    np.testing.assert_array_equal(best, [[0.9, 0.3], [0.4, -np.inf]])


def test_an_exact_interval_is_clopper_and_pearsons() -> None:
    assert clopper_pearson(0, 60) == (0.0, pytest.approx(0.0596, abs=1e-4))
    assert clopper_pearson(60, 60) == (pytest.approx(0.9404, abs=1e-4), 1.0)
    assert clopper_pearson(5, 50) == (
        pytest.approx(0.0333, abs=1e-4),
        pytest.approx(0.2181, abs=1e-4),
    )


def test_a_table_says_who_is_who_and_which_output_is_whose(tmp_path: Path) -> None:
    pictures = rendered()[:4]
    save(tmp_path / "in", pictures, lambda i: f"{i}.png")
    save(tmp_path / "out", pictures[:3], lambda i: f"new{i}.png")
    rows = ["original,output,person,decade"]
    rows += [f"{i}.png,{f'new{i}.png' if i < 3 else ''},{'ab'[i % 2]},{i}0s" for i in range(4)]
    table = tmp_path / "pairs.csv"
    table.write_text("\n".join(rows))
    folders = open_folders(str(tmp_path / "in"), str(tmp_path / "out"), None)
    pairs = read_pairs(folders, table, "auto")
    assert [pair.output for pair in pairs] == ["new0.png", "new1.png", "new2.png", None]
    assert [pair.person for pair in pairs] == ["a", "b", "a", "b"]
    assert pairs[1].groups == {"decade": "10s"}
    table.write_text("original,person\n0.png,a")
    with pytest.raises(DeidError, match="first line with the columns original, output, person"):
        read_pairs(folders, table, "auto")


@pytest.mark.parametrize(("people", "expected"), [("file", 3), ("prefix", 2)])
def test_names_say_who_is_who_and_suffixes_may_change(
    tmp_path: Path, people: str, expected: int
) -> None:
    pictures = rendered()[:3]
    names = ["ann_1", "ann_2", "bob_1"]
    save(tmp_path / "in", pictures, lambda i: f"{names[i]}.png")
    save(tmp_path / "out", pictures, lambda i: f"{names[i]}.jpg")
    folders = open_folders(str(tmp_path / "in"), str(tmp_path / "out"), None)
    pairs = read_pairs(folders, None, people)
    assert len({pair.person for pair in pairs}) == expected
    assert [pair.output for pair in pairs] == [f"{name}.jpg" for name in names]
    with pytest.raises(DeidError, match="--people city: unknown"):
        read_pairs(folders, None, "city")


def test_what_nobody_searched_is_named_and_no_limit_vouches_for_it(
    world: World, tmp_path: Path
) -> None:
    originals = save(tmp_path / "in", rendered(), in_folders)
    outputs = save(tmp_path / "out", rendered()[:-VIEWS], in_folders)
    (outputs / "00/0.png").write_bytes(b"no picture")
    first, second = (Image.fromarray(one) for one in rendered()[1:3])
    first.save(outputs / "00/1.tif", save_all=True, append_images=[second])  # whom does it hide?
    (outputs / "00/1.png").unlink()
    (originals / "12").mkdir()
    (originals / "12/damaged.png").write_bytes(b"no picture")
    Image.new("RGB", (96, 64)).save(originals / "12/nobody.png")
    Image.new("RGB", (96, 64)).save(originals / "12/withheld.png")
    (outputs / "12").mkdir()
    Image.new("RGB", (96, 64)).save(outputs / "12/nobody.png")
    first.save(outputs / "stray.png")
    settings = AttackSettings(min_detected=0.95)
    metrics = examine(world, str(originals), str(outputs), tmp_path / "report", settings)
    missing = ["00/0.png", "00/1.png", "11/0.png", "11/1.png", "11/2.png"]
    assert metrics["about"]["missing"] == missing
    assert metrics["about"]["unexamined"] == ["12/nobody.png"]  # of the others nothing came
    assert metrics["about"]["strays"] == ["stray.png"]
    assert metrics["utility"]["detected_mini"]["value"] == pytest.approx(31 / 36)
    assert metrics["exceeded"] == [
        "faces found in 86.1% are less than 95.0%",
        "nobody searched outputs that are missing: 5 (00/0.png, …)",
        "nobody searched outputs of which a face could not be looked at, or is elsewhere: 1 "
        "(12/nobody.png)",
        "nobody searched outputs without an original: 1 (stray.png)",
    ]


def two_by_two(faces: Pixels) -> list[Pixels]:
    """Pictures of two people, the first the larger."""
    large, small = faces[0::2], faces[1::2]
    sides = ((large, 256), (small, 128))
    rows = [[cv2.resize(face, (side, side)) for face in one] for one, side in sides]
    return [
        np.concatenate([first, np.pad(second, ((0, 128), (0, 0), (0, 0)), "edge")], axis=1)
        for first, second in zip(*rows, strict=True)
    ]


def test_every_face_of_a_picture_is_looked_at_or_said_not_to_be(
    world: World, tmp_path: Path
) -> None:
    from deid.worlds.mini.test_faces import held_out_faces

    people, strangers = (held_out_faces(16, 1, seed).pixels for seed in (5, 77))
    half_done = people.copy()
    half_done[0::2] = strangers[0::2]  # the larger one of each picture
    originals = save(tmp_path / "in", two_by_two(people), lambda i: f"{i}.png")
    outputs = save(tmp_path / "out", two_by_two(half_done), lambda i: f"{i}.png")
    Image.open(outputs / "6.png").transpose(Image.Transpose.ROTATE_180).save(outputs / "6.png")
    Image.open(outputs / "7.png").crop((0, 0, 256, 256)).save(outputs / "7.png")
    settings = AttackSettings(max_tar=0.5, attackers=("A0",))
    metrics = examine(world, str(originals), str(outputs), tmp_path / "report", settings)
    about, others = metrics["about"], metrics["others"]
    assert (about["pictures"], about["people"]) == (8, 8)
    assert about["unexamined"] == ["6.png", "7.png"]
    assert (others["faces"], others["gallery"]) == (7, 15)
    assert others["tar"] >= 6 / 7  # all but that of the turned picture
    assert metrics["best"]["tar"]["value"] <= 0.5, "the larger ones are other people now"
    assert metrics["exceeded"] == [
        f"TAR {max(others['tar'], others['tar_calibrated']):.1%} of further faces is more than "
        "50.0%",
        "nobody searched outputs of which a face could not be looked at, or is elsewhere: "
        "2 (6.png, …)",
    ]
    assert "Of 7 faces beside" in (tmp_path / "report/index.html").read_text()
    every = examine(world, str(originals), str(outputs), tmp_path / "all", AttackSettings())
    assert np.isfinite(list(every["others"].values())).all()  # A0b has no other picture of them
    assert every["others"]["rank1"] >= others["rank1"]


def found_of(shares: dict[str, float]) -> dict[str, Any]:
    """Metrics in which all is well but these figures of A0."""
    figures = {
        name: {"value": shares.get(name, 0.0)} for name in ("rank1", "tar", "tar_calibrated")
    }
    best = {name: one | {"attacker": "A0", "recognizer": "judge"} for name, one in figures.items()}
    return {
        "best": best,
        "attacks": {"A0": {"judge": {"chance": {"rank1": 0.1}}}},
        "utility": {"detected_mini": {"value": 1.0}},
        "about": {"missing": [], "unexamined": [], "strays": []},
        "others": {},
        "not_tried": {"A4": "not tried: give --again"},
    }


def test_a_limit_holds_for_the_higher_of_both_thresholds_and_for_who_was_asked_for() -> None:
    calibrated = found_of({"tar_calibrated": 0.5})
    assert exceeded(calibrated, AttackSettings(max_tar=0.1)) == ["TAR 50.0% is more than 10.0%"]
    good = found_of({})
    assert exceeded(good, AttackSettings(max_tar=0.1)) == []
    assert exceeded(good, AttackSettings(max_tar=0.1, attackers=("A4",))) == [
        "A4 was asked for: not tried: give --again"
    ]
    assert exceeded(good, AttackSettings(attackers=("A4",))) == []  # no limit, no failure


def test_who_draws_faces_like_nobody_is_matched_at_thresholds_of_their_outputs() -> None:
    people = np.arange(40)
    scores = np.where(np.eye(40, dtype=bool), 0.3, 0.1)  # all far below what clear strangers have
    strangers = without_own(np.full((40, 40), 0.5), people)
    made = hits(Searched(scores, strangers, people))
    assert made is not None
    assert made.values["tar"].mean() == 0.0
    assert made.values["tar_calibrated"].mean() == 1.0
    assert made.values["fnir"].mean() == 1.0
    assert made.values["fnir_calibrated"].mean() == 0.0


def test_an_exact_interval_is_of_people_and_comparisons_count_once() -> None:
    people = np.repeat(np.arange(20), 10)
    scores = np.random.default_rng(0).random((200, 20))
    scores[np.arange(200), people] = 0.0
    made = hits(Searched(scores, without_own(scores, people), people))
    assert made is not None
    exact = scores_module.figures(made, 0)["tar"]
    assert (exact["exact_low"], exact["exact_high"]) == clopper_pearson(0, 20)
    same_both_ways = scores[::10] + scores[::10].T
    made = hits(Searched(same_both_ways, without_own(same_both_ways, people[::10]), people[::10]))
    assert made is not None
    assert made.impostors == 190


def vectors_of(people: np.ndarray, seed: int) -> np.ndarray:
    """Two pictures of a person are near each other, those of two people are not."""
    random = np.random.default_rng(seed)
    faces = random.standard_normal((int(people.max()) + 1, 64))[people]
    return unit(faces + 0.3 * random.standard_normal((len(people), 64)))


def test_an_album_taken_for_strangers_does_not_hide_anybody() -> None:
    truly, taken = np.repeat(np.arange(40), 3), np.arange(120)
    originals = {name: vectors_of(truly, seed) for seed, name in enumerate(("one", "two"))}
    same = one_person(originals, taken)
    assert (same == (truly[:, None] == truly[None])).all()
    outputs = {name: unit(rows + 0.1) for name, rows in originals.items()}
    pixels = np.zeros((120, 3))
    searches, _ = attack(Seen(taken, originals, outputs, None, pixels), ["A0"], same)
    made = hits(searches["A0"]["one"])
    assert made is not None
    assert made.values["tar"].mean() == 1.0  # the others' pictures set no threshold


def test_a_picture_that_is_there_twice_is_one_person_among_few_too() -> None:
    rows = vectors_of(np.arange(6), 0)
    rows[5] = rows[0]
    same = one_person({"judge": rows}, np.arange(6))
    assert np.argwhere(np.triu(same, 1)).tolist() == [[0, 5]]


def test_originals_that_all_show_one_person_are_refused(world: World, tmp_path: Path) -> None:
    twice = save(tmp_path / "in", np.stack([rendered()[0]] * 2), lambda i: f"{i}.png")
    with pytest.raises(DeidError, match="all originals show one person"):
        examine(world, str(twice), str(twice), tmp_path / "report", AttackSettings())


def test_two_recognizers_of_one_name_are_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Judge("foamliu:model", 0.5, lambda *_: np.zeros((1, 4), np.float32), 0.1)
    verifier = Verifier((judge, judge), side=256)
    monkeypatch.setattr("deid.attack.recognizers.build_verifier", lambda *_: verifier)
    with pytest.raises(DeidError, match="two recognizers are called foamliu:model"):
        recognizers(world, ["foamliu=a/model.onnx", "foamliu=b/model.onnx"])


def test_an_output_is_one_originals_only(tmp_path: Path) -> None:
    for name in ("in/a.jpg", "in/a.png", "in/b.png", "out/a.jpg", "out/b.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    folders = open_folders(*(str(tmp_path / name) for name in ("in", "out", "out")))
    pairs = {pair.original: (pair.output, pair.again) for pair in read_pairs(folders, None, "file")}
    assert pairs["a.jpg"] == ("a.jpg", "a.jpg")
    assert pairs["a.png"] == (None, None)
    assert pairs["b.png"] == ("b.webp", "b.webp")
    (tmp_path / "out/b.tif").write_bytes(b"")
    with pytest.raises(DeidError, match=r"b.png, b.tif, b.webp: which was made from which\?"):
        read_pairs(folders, None, "file")


@pytest.mark.parametrize("failure", [StorageFailure, Unread, Unreachable])
@pytest.mark.parametrize("of_output", [True, False])
def test_what_could_not_be_read_is_not_missing(
    world: World,
    originals: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: type[DeidError],
    of_output: bool,
) -> None:
    from deid.attack import crops

    def lost(storage: Storage, name: str, one_frame: bool) -> Pixels:
        if one_frame == of_output:
            raise failure("s3://out: does not answer")
        return read_picture(storage, name, one_frame)

    read_picture = crops.read_picture
    monkeypatch.setattr(crops, "read_picture", lost)
    with pytest.raises(failure, match="does not answer"):
        examine(world, str(originals), str(originals), originals / "report", AttackSettings())


def test_a_limit_that_is_no_share_is_refused() -> None:
    with pytest.raises(DeidError, match="--max-rank1 5: a share is from 0 to 1"):
        AttackSettings(max_rank1=5.0)


def test_nothing_to_compare_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    save(tmp_path / "in", rendered()[:2], lambda i: f"{i}.png")
    save(tmp_path / "out", rendered()[:2], lambda i: f"other{i}.png")
    words = ["attack", str(tmp_path / "in"), str(tmp_path / "out"), "--world", "mini"]
    monkeypatch.setattr("sys.argv", ["deid", *words, "--out", str(tmp_path / "report")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "deid: fewer than two people have an output" in said
    assert not (tmp_path / "report").exists()
    assert str(ROOT) not in said


def eye_pictures(shifts: list[float], lid: float = 0.0) -> tuple[Pixels, np.ndarray]:
    """Faces of 256 px with two eyes of 40 px whose pupils lie `shifts` widths off the middle, and a
    shadow of the upper lid of so much darkness; and their landmarks."""
    landmarks = np.zeros((len(shifts), 68, 2))
    faces = np.full((len(shifts), 256, 256, 3), (190, 140, 120), np.uint8)
    for face, points, shift in zip(faces, landmarks, shifts, strict=True):
        for eye, middle in zip(EYES, (90.0, 166.0), strict=True):
            corners = [-20, -10, 10, 20, 10, -10], [0, -8, -8, 0, 8, 8]
            points[eye] = np.stack(corners, 1) + np.array([middle, 110.0])
            opening = np.zeros((256, 256), np.uint8)
            cv2.fillPoly(opening, [np.rint(points[eye]).astype(np.int32)], 1)
            painted = face.copy()
            painted[opening > 0] = (225, 220, 215)
            painted[100:106] = (painted[100:106] * (1 - lid)).astype(np.uint8)
            at = round(middle + 40 * shift), 110
            cv2.circle(painted, at, 8, (110, 80, 50), -1)
            cv2.circle(painted, at, 4, (15, 12, 10), -1)
            face[opening > 0] = painted[opening > 0]
    return faces, landmarks


def test_an_iris_is_found_where_it_was_painted() -> None:
    shifts = [-0.2, -0.1, 0.0, 0.05, 0.15]
    for lid in (0.0, 0.4):
        np.testing.assert_allclose(iris_places(*eye_pictures(shifts, lid)), shifts, atol=0.03)


def test_eyes_that_are_turned_or_closed_say_what_they_can() -> None:
    faces, landmarks = eye_pictures([0.15])
    turned = np.rot90(faces, 2, (1, 2))
    points = 256 - landmarks
    for eye in EYES:  # from the corner that is left now
        points[:, eye] = points[:, eye][:, [3, 4, 5, 0, 1, 2]]
    np.testing.assert_allclose(iris_places(turned, points), [-0.15], atol=0.03)
    landmarks[:, 36:48, 1] = 110 + (landmarks[:, 36:48, 1] - 110) / 8
    assert np.isnan(iris_places(faces, landmarks)).all()


def test_rendered_people_look_where_they_were_told_to() -> None:
    from deid.worlds.mini.render.parameters import NAMES, random_parameters
    from deid.worlds.mini.render.renderer import render

    parameters = random_parameters(range(24), 3)
    parameters[:, NAMES.index("glasses")] = -3.0
    for name in ("yaw", "pitch", "roll"):
        parameters[:, NAMES.index(name)] *= 0.2
    made = render(torch.from_numpy(parameters), 128)
    places = iris_places(to_pixels(made.images), made.landmarks.double().numpy())
    told = parameters[:, NAMES.index("gaze_x")]
    seen = np.isfinite(places)
    assert seen.sum() > 15
    assert np.corrcoef(places[seen], told[seen])[0, 1] > 0.8
