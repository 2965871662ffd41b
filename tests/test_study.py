"""The user study: balanced, blind, reproducible; statistics against published examples."""

import base64
import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from deid.anonymize import RIVALS
from deid.anonymize.rivals.learned import TRAINED
from deid.batch import settings
from deid.cli.main import app
from deid.errors import DeidError
from deid.evaluate.cells import TABLES, tables
from deid.evaluate.columns import ARTIFACTS, columns
from deid.evaluate.report import lines, with_ratings
from deid.params import load_params
from deid.study.answers import read_answers, read_key
from deid.study.build import Plan, build, order
from deid.study.scores import Scores, fleiss_kappa, read_scores, score, wilson, write_scores
from deid.training.rivals.__main__ import TASKS
from tests.conftest import ROOT
from tests.toy import toy_world

METHODS = ("original", "adversarial", "fgsm-0.1")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures a method, each of one color."""
    folder = tmp_path_factory.mktemp("pictures")
    for place, method in enumerate(METHODS):
        (folder / method).mkdir()
        (folder / method / "manifest.jsonl").write_text("{}")
        for number in range(10):
            color = (20 * number, 80 * place, 99)
            picture = Image.new("RGB", (40, 30), color)
            picture.save(folder / method / f"{number}.{'jpg' if place else 'png'}")
    return folder


@pytest.fixture(scope="module")
def study(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "study"
    build(source, out, Plan(pictures=16, raters=4))
    return out


def embedded(study: Path) -> dict[str, Any]:
    found = re.search(r"const STUDY = (.*);\n", (study / "index.html").read_text())
    assert found
    content: dict[str, Any] = json.loads(found[1])
    return content


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))


def answers_of(
    study: Path, rater: int, altered: set[str], change: dict[str, Any] | None = None
) -> Path:
    """A file as the page exports it, of a rater who calls all pictures of some methods altered."""
    key = json.loads((study / "key.json").read_bytes())
    given = {name: one["method"] in altered for name, one in key["pictures"].items()}
    content = {"study": key["study"], "rater": rater, "answers": given} | (change or {})
    file = study / f"answers-{rater}-{len(list(study.iterdir()))}.json"
    file.write_text(json.dumps(content))
    return file


def test_every_method_has_the_same_share_and_no_original_is_shown_more_often_than_it_must(
    study: Path,
) -> None:
    shown = json.loads((study / "key.json").read_bytes())["pictures"].values()
    counts = Counter(one["method"] for one in shown)
    assert sorted(counts.values()) == [5, 5, 6]
    assert max(Counter(Path(one["file"]).stem for one in shown).values()) == 2  # of 10, 16 times
    assert len({one["file"] for one in shown}) == 16


def test_the_page_tells_nothing_of_a_method(study: Path) -> None:
    text = (study / "index.html").read_text()
    content = embedded(study)
    assert not any(word in text for word in ("fgsm", "adversarial", "manifest"))
    kinds = {uri.split(",")[0] for uri in content["pictures"].values()}
    assert kinds == {"data:image/webp;base64"}
    assert "http" not in text.replace("http-equiv", "")


def test_pictures_are_shown_without_loss_and_large_ones_smaller(
    study: Path, source: Path, tmp_path: Path
) -> None:
    key = json.loads((study / "key.json").read_bytes())["pictures"]
    for name, uri in embedded(study)["pictures"].items():
        with Image.open(source / key[name]["file"]) as file:
            assert np.array_equal(np.asarray(decoded(uri)), np.asarray(file.convert("RGB")))
    build(source, tmp_path / "small", Plan(pictures=3, side=20))
    for uri in embedded(tmp_path / "small")["pictures"].values():
        assert decoded(uri).size == (20, 15)


def test_every_rater_sees_all_pictures_in_an_order_of_their_own(study: Path) -> None:
    content = embedded(study)
    assert len(content["orders"]) == 4
    assert len({tuple(one) for one in content["orders"]}) == 4
    for rater, names in enumerate(content["orders"]):
        assert sorted(names) == sorted(content["pictures"])
        assert names == order(sorted(content["pictures"]), rater, 0)


def test_one_seed_is_one_study_and_another_is_another(
    source: Path, study: Path, tmp_path: Path
) -> None:
    again = build(source, tmp_path / "again", Plan(pictures=16, raters=4))
    other = build(source, tmp_path / "other", Plan(pictures=16, raters=4, seed=1))
    for file in ("index.html", "key.json"):
        assert (tmp_path / "again" / file).read_bytes() == (study / file).read_bytes()
    assert [one.file for one in again] != [one.file for one in other]


def test_a_study_is_never_overwritten_and_needs_originals_and_enough_pictures(
    source: Path, study: Path, tmp_path: Path
) -> None:
    with pytest.raises(DeidError, match="holds a study already"):
        build(source, study, Plan())
    with pytest.raises(DeidError, match=r"10 pictures, 3[34] are needed"):
        build(source, tmp_path / "many", Plan())
    (tmp_path / "only/swap").mkdir(parents=True)
    with pytest.raises(DeidError, match="original"):
        build(tmp_path / "only", tmp_path / "out", Plan())
    assert not (tmp_path / "many").exists()


def test_scores_are_shares_over_raters_with_wilsons_interval(study: Path, tmp_path: Path) -> None:
    key = read_key(study / "key.json")
    files = [
        answers_of(study, 1, {"fgsm-0.1"}),
        answers_of(study, 2, {"fgsm-0.1", "adversarial"}),
        answers_of(study, 3, {"fgsm-0.1", "original"}),
    ]
    scores = score(read_answers(files, key), key)
    assert scores.raters == 3
    assert scores.methods["fgsm-0.1"].mean == 1.0
    one = scores.methods["adversarial"]
    assert one.mean == pytest.approx(1 / 3)
    assert one.std == pytest.approx(np.std([0, 1, 0], ddof=1))
    assert (one.low, one.high) == wilson(one.yes, one.ratings)
    assert scores.kappa is not None
    assert -1 / 2 <= scores.kappa < 1
    write_scores(scores, tmp_path / "scores.json")
    assert read_scores(tmp_path / "scores.json") == scores


def test_what_a_rater_left_out_is_counted_and_judged_by_nobody(study: Path) -> None:
    key = read_key(study / "key.json")
    first = next(name for name, method in key.methods.items() if method == "fgsm-0.1")
    files = [
        answers_of(study, 1, {"fgsm-0.1"}),
        answers_of(study, 2, set(), {"answers": {first: True}}),
    ]
    scores = score(read_answers(files, key), key)
    assert scores.unanswered == 15
    assert scores.methods["fgsm-0.1"].mean == 1.0
    assert scores.methods["original"].std == 0.0
    assert scores.kappa is None  # the one picture that both rated, both called altered


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"study": "another"}, "answers of study another"),
        ({"rater": 5}, "rater 5, but there are 4"),
        ({"answers": {"p999": True}}, "p999 was not shown"),
        ({"answers": {"p001": "yes"}}, "true or false"),
        ({"answers": None}, "not answers of a study"),
    ],
)
def test_answers_that_do_not_belong_are_refused(
    study: Path, change: dict[str, Any], message: str
) -> None:
    key = read_key(study / "key.json")
    with pytest.raises(DeidError, match=message):
        read_answers([answers_of(study, 1, set(), change)], key)


def test_a_rater_counts_once(study: Path) -> None:
    key = read_key(study / "key.json")
    twice = [answers_of(study, 1, set()), answers_of(study, 1, {"original"})]
    with pytest.raises(DeidError, match="rater 1 answered already"):
        read_answers(twice, key)
    with pytest.raises(DeidError, match="no answers"):
        read_answers([], key)


def test_csv_says_the_same_as_json(study: Path, tmp_path: Path) -> None:
    key = read_key(study / "key.json")
    file = answers_of(study, 2, {"original"})
    given = read_answers([file], key)
    rows = [f"{key.study},2,{p},{'yes' if a else 'no'}" for p, a in given[2].items()]
    (tmp_path / "a.csv").write_text("\n".join(["study,rater,picture,altered", *rows, ""]))
    assert read_answers([tmp_path / "a.csv"], key) == given
    (tmp_path / "b.csv").write_text(f"study,rater,picture,altered\n{key.study},2,p001,perhaps\n")
    with pytest.raises(DeidError, match="not answers of a study"):
        read_answers([tmp_path / "b.csv"], key)


@pytest.mark.parametrize(
    ("yes", "count", "low", "high"),
    [
        # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I,
        # method 3: the score interval without continuity correction.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_is_that_of_newcombes_table(
    yes: int, count: int, low: float, high: float
) -> None:
    assert wilson(yes, count) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_fleiss_kappa_is_that_of_the_worked_example() -> None:
    """Ten subjects, fourteen raters, five categories; κ = 0.210 (Wikipedia, "Fleiss' kappa")."""
    counts = np.array(
        [
            [0, 0, 0, 0, 14],
            [0, 2, 6, 4, 2],
            [0, 0, 3, 5, 6],
            [0, 3, 9, 2, 0],
            [2, 2, 8, 1, 1],
            [7, 7, 0, 0, 0],
            [3, 2, 6, 3, 0],
            [2, 5, 3, 2, 2],
            [6, 5, 2, 1, 0],
            [0, 2, 2, 3, 7],
        ]
    )
    assert fleiss_kappa(counts) == pytest.approx(0.210, abs=5e-4)
    assert fleiss_kappa(np.array([[3, 0], [0, 3]])) == 1.0
    assert fleiss_kappa(np.array([[3, 0], [3, 0]])) is None
    with pytest.raises(ValueError, match="same number"):
        fleiss_kappa(np.array([[3, 0], [1, 1]]))


def test_the_commands_build_and_score(source: Path, tmp_path: Path) -> None:
    run = CliRunner()
    folder = str(tmp_path / "study")
    built = run.invoke(app, ["study", "build", str(source), "--study", folder, "--pictures", "9"])
    assert built.exit_code == 0, built.output
    assert "for 12 raters" in built.output
    files = [str(answers_of(Path(folder), rater, {"fgsm-0.1"})) for rater in (1, 2)]
    scored = run.invoke(app, ["study", "score", *files, "--study", folder])
    assert scored.exit_code == 0, scored.output
    assert "Fleiss' kappa): 1.000" in scored.output
    assert read_scores(Path(folder) / "scores.json").methods["fgsm-0.1"].mean == 1.0


def rows_of_table_1(rated: Scores | None) -> list[tuple[str, str]]:
    """Each method of Table 1 with what the report says of its artifacts rate."""
    row = {"fid": {"mean": 1.0, "std": 0.0}}
    shown = [column for column in columns("table1", toy_world()) if column.key == ARTIFACTS]
    rows = with_ratings({"adversarial": row, "pgd": row}, rated)
    return [(line.name, line.cells[0][0]) for line in lines("table1", rows, shown, spread=False)]


def test_until_people_have_rated_table_1_says_so_beside_the_papers_rates() -> None:
    assert rows_of_table_1(None) == [
        ("adversarial", "not rated"),
        ("pgd", "not rated"),
        ("FGSM ε = 0.03", "0.995"),
        ("FGSM ε = 0.1", "1.000"),
        ("adversarial mapping", "0.144"),
    ]


def test_what_people_said_stands_in_table_1_with_its_deviation(study: Path) -> None:
    key = read_key(study / "key.json")
    files = [answers_of(study, 1, {"adversarial"}), answers_of(study, 2, set())]
    shown = dict(rows_of_table_1(score(read_answers(files, key), key)))
    assert shown["adversarial"] == "0.500 ± 0.707"
    assert shown["pgd"] == "not rated"


def test_further_methods_get_rows_in_the_table_that_they_belong_to() -> None:
    found = tables(["fawkes", "inversion-w", "pgd-0.2", "adversarial"])
    assert found["table1"] == (*TABLES["table1"], "fawkes", "pgd-0.2")
    assert found["table2"] == TABLES["table2"]
    assert found["table3"] == (*TABLES["table3"], "inversion-w")
    with pytest.raises(DeidError, match="fawks"):
        tables(["fawks"])


def test_the_profile_of_the_study_has_every_rival_and_the_command_line_offers_it() -> None:
    params = load_params(ROOT / "profiles/study.yaml")
    trained = {card.stem for card in (TRAINED / params.world.name).glob("*.json")}
    there = [name for name in RIVALS if name not in TASKS or name in trained]
    # The detector of the world of photographs passes no gradients.
    assert sorted(params.evaluate.methods) == sorted({*there, "inversion"} - {"undetected"})
    assert tuple(RIVALS) == settings.RIVALS
