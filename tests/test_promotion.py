"""Promotion, rollback and retirement: whatever is killed and whoever else is at it, one valid
version is champion, and history tells how it came to be that."""

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from deid.errors import DeidError
from deid.params import RegisterParams
from deid.registry import lock, promotion
from deid.registry.moves import history
from deid.registry.promotion import Contest, contest, promote, retire, rollback
from deid.registry.versions import aliases_of, is_usable, versions_of
from deid.tracking import mlflow_client
from tests.toy_registry import UNTIMED, fileless, light_model, store

__all__ = ["fileless", "store"]

pytestmark = pytest.mark.usefixtures("fileless")

WRITES = (
    "set_registered_model_tag",
    "set_registered_model_alias",
    "delete_registered_model_alias",
    "set_model_version_tag",
)
Step = Callable[[RegisterParams], str]


@pytest.fixture
def params(tmp_path: Path) -> RegisterParams:
    return RegisterParams(model=tmp_path.name, gates=UNTIMED)


def three_champions(model: str) -> RegisterParams:
    """Versions 1, 2 and 3 were champions in turn; 4 is the challenger."""
    params = RegisterParams(model=model, gates=UNTIMED)
    light_model(params, 4, champions=3)
    return params


def aliases(params: RegisterParams) -> dict[str, int]:
    return {k: int(v) for k, v in aliases_of(mlflow_client(), params.model).items()}


class Killer:
    """Dies before the write of a number; what was written by then, stays."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int) -> None:
        self.writes = 0
        for name in WRITES:
            patch.setattr(MlflowClient, name, self.wrapped(getattr(MlflowClient, name), at))

    def wrapped(self, write: Any, at: int) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self.writes += 1
            if self.writes == at:
                raise KeyboardInterrupt
            return write(*args, **kwargs)

        return wrapper


STEPS: dict[str, tuple[Step, dict[str, int]]] = {
    "promote": (promote, {"champion": 4, "previous": 3}),
    "promote a number": (lambda p: promote(p, "4"), {"champion": 4, "previous": 3}),
    "rollback": (rollback, {"champion": 2, "previous": 1, "challenger": 4}),
    "rollback to": (lambda p: rollback(p, "1"), {"champion": 1, "challenger": 4}),
    "retire": (lambda p: retire(p, "2", "a leak"), {"champion": 3, "previous": 1, "challenger": 4}),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_write_leaves_one_valid_champion_and_a_repeat_finishes(
    tmp_path: Path, step: str
) -> None:
    do, wanted = STEPS[step]
    client = mlflow_client()
    for at in itertools.count(1):
        params = three_champions(f"{tmp_path.name}-{at}")
        with pytest.MonkeyPatch.context() as patch:
            killer = Killer(patch, at)
            try:
                do(params)
            except KeyboardInterrupt:
                pass
            else:
                break
        versions = versions_of(client, params.model)
        held = aliases(params)
        assert held["champion"] in {3, wanted["champion"]}
        assert not versions[str(held["champion"])].tags.get("retired")
        do(params)
        assert aliases(params) == wanted, at
        moves = history(client, params.model)
        assert [move.done for move in moves] == [True] * 4, at
        assert (moves[-1].before, moves[-1].after) == ("3", str(wanted["champion"]))
        assert is_usable(versions_of(client, params.model)[str(wanted["champion"])])
    assert at - 1 == killer.writes >= 4, "every write was killed once"


def test_what_was_killed_is_finished_by_whatever_comes_next(params: RegisterParams) -> None:
    params = three_champions(params.model)
    with pytest.MonkeyPatch.context() as patch:
        Killer(patch, 5)  # two tags of the contest, the intent, an alias
        with pytest.raises(KeyboardInterrupt):
            promote(params)
    assert "version 3 is champion again; version 4 is withdrawn" in rollback(params)
    assert aliases(params) == {"champion": 3, "previous": 2}


def test_rollback_goes_back_step_by_step_and_promote_with_a_number_forward_again(
    params: RegisterParams,
) -> None:
    params = three_champions(params.model)
    rollback(params)
    rollback(params)
    assert aliases(params) == {"champion": 1, "challenger": 4}
    with pytest.raises(DeidError, match="no previous champion"):
        rollback(params)
    assert "version 3 is champion; version 1 is previous" in promote(params, "3", "was no fault")
    assert is_usable(versions_of(mlflow_client(), params.model)["3"])
    told = [(m.what, m.before, m.after, m.why) for m in history(mlflow_client(), params.model)]
    assert told[3:] == [
        ("rollback", "3", "2", ""),
        ("rollback", "2", "1", ""),
        ("promote", "1", "3", "was no fault"),
    ]
    last = history(mlflow_client(), params.model)[-1]
    assert last.who
    assert last.when[:4].isdigit()


def test_who_is_retired_while_it_is_judged_is_not_promoted(
    params: RegisterParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = three_champions(params.model)

    def judged(*given: Any) -> Contest:
        found = contest(*given)
        retire(params, "4", "a leak")
        return found

    monkeypatch.setattr(promotion, "contest", judged)
    with pytest.raises(DeidError, match=r"retired|no challenger"):
        promote(params)
    assert aliases(params)["champion"] == 3


def test_rollback_goes_to_former_champions_only(params: RegisterParams) -> None:
    params = three_champions(params.model)
    with pytest.raises(DeidError, match="version 4 never was champion"):
        rollback(params, "4")
    with pytest.raises(DeidError, match="version 3 is champion already"):
        rollback(params, "3")
    retire(params, "1", "a leak")
    with pytest.raises(DeidError, match="version 1 is retired: a leak"):
        rollback(params, "1")
    assert aliases(params) == {"champion": 3, "previous": 2, "challenger": 4}


def test_a_retired_version_is_never_promoted_and_the_champion_not_retired(
    params: RegisterParams,
) -> None:
    params = three_champions(params.model)
    with pytest.raises(DeidError, match="promote another or roll back first"):
        retire(params, "champion", "")
    retire(params, "4", "a leak")
    assert "challenger" not in aliases(params)
    with pytest.raises(DeidError, match="version 4 is retired: a leak"):
        promote(params, "4")
    with pytest.raises(DeidError, match="no challenger"):
        promote(params)


def test_a_version_is_held_against_every_champion_but_not_against_itself(
    params: RegisterParams,
) -> None:
    params = three_champions(params.model)
    rollback(params)
    assert contest(params, "3").failures == []
    with pytest.raises(DeidError, match=r"version 1 stays as it is: .*no gated figure is better"):
        promote(params, "1")


def test_without_a_champion_one_can_be_made_and_nothing_is_overlooked(
    params: RegisterParams,
) -> None:
    with pytest.raises(DeidError, match="nothing is registered; run `dvc repro`"):
        promote(params)
    params = three_champions(params.model)
    mlflow_client().delete_registered_model_alias(params.model, "champion")  # by hand, elsewhere
    assert "version 2 is champion again" in rollback(params)
    mlflow_client().delete_registered_model_alias(params.model, "champion")
    assert "version 4 is champion" in promote(params)


@pytest.mark.parametrize("guard", ["file", "lease"])
def test_promotions_at_once_happen_one_after_the_other(
    params: RegisterParams, guard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if guard == "lease":  # as on a server
        monkeypatch.setattr("deid.registry.moves.alone", lock.lease)
    params = three_champions(params.model)
    light = mlflow_client()
    for number in (5, 6):
        tags = {"table2.swap.source_id_loss": repr(0.06 - 0.01 * number + 0.03)}
        tags = light.get_model_version(params.model, "4").tags | tags
        light.create_model_version(params.model, "/nowhere", tags=tags)
    ended: list[str] = []

    def attempt(number: str) -> None:
        try:
            ended.append(promote(params, number))
        except DeidError as error:
            ended.append(str(error))

    threads = [threading.Thread(target=attempt, args=(number,)) for number in "456"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    moves = history(mlflow_client(), params.model)
    assert len(ended) == 3
    assert [move.number for move in moves] == list(range(1, len(moves) + 1))
    for earlier, later in itertools.pairwise(moves):
        assert later.before == earlier.after
    assert aliases(params)["champion"] == int(moves[-1].after or 0)
    assert f"{params.model}.lock" not in {m.name for m in light.search_registered_models()}


def test_a_lock_whose_holder_was_killed_opens_after_its_time(
    params: RegisterParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = mlflow_client()
    monkeypatch.setattr(lock, "PATIENCE", 0.5)
    client.create_registered_model(f"{params.model}.lock", tags={lock.UNTIL: "9e9"})
    with (
        pytest.raises(DeidError, match="another process has been moving its aliases"),
        lock.lease(client, params.model),
    ):
        pass
    client.set_registered_model_tag(f"{params.model}.lock", lock.UNTIL, "1.0")
    with lock.lease(client, params.model):
        assert float(client.get_registered_model(f"{params.model}.lock").tags[lock.UNTIL]) > 1.0


def test_figures_of_other_held_out_faces_do_not_compare(params: RegisterParams) -> None:
    params = three_champions(params.model)
    client = mlflow_client()
    for number, faces in (("4", "1000 faces"), ("3", "20 faces")):
        client.set_model_version_tag(params.model, number, "held_out", faces)
    with pytest.raises(DeidError, match=r"held-out faces: .*`deid registry measure champion`"):
        promote(params)
    client.set_model_version_tag(params.model, "3", "held_out", "1000 faces")
    assert "version 4 is champion" in promote(params)
