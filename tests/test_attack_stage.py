"""The stage `attack`: what methods make of held-out people is attacked as a run writes it."""

import csv
from pathlib import Path
from typing import Any

import pytest

from deid.attack import stage
from deid.attack.settings import AttackSettings
from deid.attack.stage import PAGES, Report, attacked, scores, summary
from deid.batch.bundle import Bundle
from deid.errors import DeidError
from deid.params import AnonymizeParams, AttackParams, WorldParams
from deid.worlds.world import World

PARAMS = AttackParams(identities=3, methods=("pixelate", "mask"))


@pytest.fixture(scope="module")
def reports(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Report]]:
    """Of the mini world, with methods that need no stages (`test_pipeline` has those that do); one
    is taken for one whose outputs another seed changes."""
    work = tmp_path_factory.mktemp("work")
    bundle = Bundle(work / "stage_one", work / "stage_two", WorldParams(), AnonymizeParams())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "UNSEEDED", {"mask"})
        return work, attacked(PARAMS, bundle, world, work)


Made = tuple[Path, dict[str, Report]]


def test_every_person_is_attacked_by_all_who_are_asked_and_by_nobody_else(reports: Made) -> None:
    work, of = reports
    assert of.keys() == {"pixelate", "mask"}
    for method, report in of.items():
        assert report["about"]["people"] == 3
        assert report["about"]["pictures"] == 6
        assert report["about"]["missing"] == []
        assert report["about"]["outputs"] == f"outputs of {method}"
        assert (work / PAGES / method / "index.html").is_file()
    assert of["pixelate"]["attacks"].keys() == {"A0", "A1", "A4"}
    assert of["mask"]["attacks"].keys() == {"A0", "A1"}  # another seed would give the same
    assert "not tried" in of["mask"]["not_tried"]["A4"]
    assert of["pixelate"]["where"]["inside"].keys() == {"A0"}


def test_processes_share_the_methods_and_find_the_same(
    reports: Made, world: World, tmp_path: Path
) -> None:
    bundle = Bundle(tmp_path / "one", tmp_path / "two", WorldParams(), AnonymizeParams())
    of = attacked(PARAMS, bundle, world, tmp_path, jobs=2)
    assert list(of) == ["pixelate", "mask"]
    assert of["mask"]["attacks"] == reports[1]["mask"]["attacks"]
    assert (tmp_path / PAGES / "mask" / "index.html").is_file()


def test_the_summary_is_what_the_reports_say(reports: Made) -> None:
    for report in reports[1].values():
        figures = summary(report)
        assert figures["rank1"] == max(
            one["rank1"]["value"] for found in report["attacks"].values() for one in found.values()
        )
        assert figures["rank1_chance"] == pytest.approx(1 / 3)
        assert figures["rank1"] >= figures["rank1_A0"] >= 0.0
        assert figures["tar"] == max(report["best"][f]["value"] for f in ("tar", "tar_calibrated"))
        assert figures["detected"] <= 1.0
        assert not any("+" in name for name in figures), "MLflow refuses it"
        assert figures["missing"] == figures["unexamined"] == 0
    about = {**report["about"], "unexamined": ["000/0000.png"]}
    assert summary({**report, "about": about})["unexamined"] == 1


def test_a_row_for_each_search_is_kept_for_plots(reports: Made) -> None:
    rows = list(csv.DictReader(scores(reports[1]).splitlines()))
    searches = [
        one for r in reports[1].values() for found in r["attacks"].values() for one in found
    ]
    assert len(rows) == len(searches)
    assert len({row["search"] for row in rows}) == len(rows)
    for row in rows:
        figure: Any = reports[1][row["method"]]["attacks"][row["attacker"]][row["recognizer"]]
        for name in ("rank1", "tar", "tar_calibrated"):
            assert float(row[name]) == figure[name]["value"]


def test_an_attacker_that_nobody_knows_is_refused() -> None:
    assert AttackSettings(attackers=("A3",)).asked == ("A0", "A3")
    with pytest.raises(DeidError, match="--attacker A9: unknown; choose of A0, A0b, A1"):
        AttackSettings(attackers=("A9",))


def test_an_output_that_only_one_of_two_runs_wrote_is_taken_away(tmp_path: Path) -> None:
    for name in ("first/000/a.png", "first/001/b.png", "second/001/b.png", "second/002/c.png"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    stage._drop_unpaired(tmp_path / "first", tmp_path / "second")
    assert [path.name for path in (tmp_path / "first").rglob("*.png")] == ["b.png"]
