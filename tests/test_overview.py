"""`deid registry`: what a person reads and what a program gets."""

import json
from pathlib import Path

import pytest

from deid import cli
from deid.params import RegisterParams
from deid.registry.gates import FIGURES
from deid.registry.moves import TAG
from deid.tracking import mlflow_client
from tests.toy_registry import BETTER, Model, fileless, light_model, model, store

__all__ = ["fileless", "model", "store"]


class Shell:
    """`deid registry …` in a project whose model is called `name`."""

    def __init__(
        self, file: Path, patch: pytest.MonkeyPatch, caught: pytest.CaptureFixture[str]
    ) -> None:
        self.file, self.patch, self.caught = file, patch, caught

    def __call__(self, *words: str, fails: bool = False) -> str:
        argv = ["deid", "registry", *words, "--params", str(self.file)]
        self.patch.setattr("sys.argv", argv)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = self.caught.readouterr()
        assert bool(ended.value.code) == fails, said.err
        return said.err if fails else said.out


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    file = tmp_path / "params.yaml"
    file.write_text(f"register: {{model: {tmp_path.name}, gates: {{max_slowdown: null}}}}\n")
    return Shell(file, monkeypatch, capsys)


def test_status_list_show_history_and_compare_tell_the_same_to_people_and_programs(
    model: Model, shell: Shell
) -> None:
    name = model.params.model
    model.register(1.0)
    model.register(2.0, **BETTER)
    assert f"{name} version 2 is champion" in shell("promote", "--why", "sharper eyes")
    model.register(3.0, detect_rate=0.5)

    said = shell("status")
    for part in ("3 versions", "champion   version 2  (files whole)", "previous   version 1"):
        assert part in said
    assert "challenger version 3  (fails min_detect_rate" in said
    assert "sharper eyes" in said
    found = json.loads(shell("status", "--json"))
    assert (found["champion"], found["previous"], found["challenger"]) == ("2", "1", "3")

    rows = json.loads(shell("list", "--json"))
    assert [row["version"] for row in rows] == [3, 2, 1]
    assert [row["validation"] for row in rows] == ["failed", "passed", "passed"]
    assert rows[0]["figures"]["table2.swap.detect_rate"] == 0.5
    assert rows[1]["content_sha256"][:12] in shell("list")

    about = json.loads(shell("show", "3", "--json"))
    assert about["files"] == "whole"
    assert len(about["gates"]) == len(FIGURES)
    assert any(fail.startswith("min_detect_rate") for fail in about["fails"])
    assert "fails min_detect_rate" in shell("show", "challenger")

    moves = json.loads(shell("history", "--json"))
    assert [(m["what"], m["before"], m["after"]) for m in moves] == [
        ("promote", "1", "2"),
        ("promote", None, "1"),
    ]
    assert all(m["who"] and m["when"] and m["done"] for m in moves)
    assert "1 → 2" in shell("history")

    found = json.loads(shell("compare", "1", "3", "--json"))
    verdicts = {row["figure"]: row["is"] for row in found["figures"] if row["gated"]}
    assert verdicts["table2.swap.detect_rate"] == "worse"
    assert verdicts["table2.swap.source_id_loss"] == "same"
    assert "worse" in shell("compare", "1", "3")


def test_a_move_that_was_killed_is_told_and_finished(shell: Shell) -> None:
    name = shell.file.parent.name
    light_model(RegisterParams(model=name), 3, champions=2)
    client = mlflow_client()
    move = {"what": "rollback", "version": "1", "before": "2", "after": "1", "number": 3}
    move |= {"aliases": {"champion": "1", "previous": None}}
    client.set_registered_model_tag(name, f"{TAG}000003", json.dumps(move))
    assert "rollback of version 1 was killed midway" in shell("status")
    assert "version 1 is champion again" in shell("rollback")
    assert "killed midway" not in shell("status")
    assert len(json.loads(shell("history", "--json"))) == 3


@pytest.mark.usefixtures("fileless")
def test_rollback_retire_and_promote_take_versions_and_reasons(shell: Shell) -> None:
    name = shell.file.parent.name
    light_model(RegisterParams(model=name), 4, champions=3)
    assert "version 1 is champion again" in shell("rollback", "--to", "1", "--why", "a complaint")
    assert "version 4 is retired" in shell("retire", "4", "--why", "a leak")
    assert "retired: a leak" in shell("promote", "4", fails=True)
    assert "version 3 is champion; version 1 is previous" in shell("promote", "3")
    assert "version 9: not in" in shell("show", "9", fails=True)


def test_to_look_where_nothing_is_registered_makes_no_store(
    shell: Shell, tmp_path_factory: pytest.TempPathFactory
) -> None:
    empty = tmp_path_factory.mktemp("empty")
    shell.patch.chdir(empty)
    for command in ("status", "list", "history"):
        assert "nothing is registered" in shell(command, fails=True)
    assert not list(empty.iterdir())
