"""A version that takes much longer than the champion is not promoted."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from deid.batch.bundle import Bundle
from deid.params import AnonymizeParams, Gates, Params, RegisterParams, WorldParams
from deid.registry import latency, promotion
from deid.registry.measure import measure
from deid.tracking import mlflow_client
from tests.toy import toy_world
from tests.toy_model import save_toy_model
from tests.toy_registry import BETTER, Model, model, store, write_metrics

__all__ = ["model", "store"]


def test_what_a_method_takes_is_compared_on_the_same_faces_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "load_world", lambda _: toy_world())
    models = save_toy_model(tmp_path)
    assert models.stage_two is not None
    slow, fast = (
        Bundle(models.stage_one, models.stage_two, WorldParams(), AnonymizeParams(swap_tries=tries))
        for tries in (9, 1)
    )
    seen: list[Any] = []
    real = latency.produce

    def produce(bench: Any, method: str, faces: Any) -> Any:
        seen.append((bench.settings.swap_tries, method, faces.images.sum().item()))
        result = real(bench, method, faces)
        time.sleep(0.2 * (bench.settings.swap_tries == 9))
        return result

    monkeypatch.setattr(latency, "produce", produce)
    ratios = latency.slowdowns(slow, fast)
    assert set(ratios) == {"adversarial", "swap"}
    assert all(ratio > 1.5 for ratio in ratios.values())
    assert len({pixels for _, _, pixels in seen}) == 1
    assert [tries for tries, _, _ in seen] == [9, 1] * (len(seen) // 2)
    (one, two) = latency.failures({"swap": 1.6, "adversarial": float("nan")}, 1.5, "2")
    assert one == "max_slowdown: swap takes 1.6 times as long as version 2, must be ≤ 1.5"
    assert two.startswith("max_slowdown: adversarial takes nan")


def test_a_slow_challenger_stays_and_its_time_is_on_record(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.register(1.0)
    model.register(2.0, **BETTER)
    seen: list[tuple[Bundle, Bundle]] = []

    def slowdowns(challenger: Bundle, champion: Bundle) -> dict[str, float]:
        seen.append((challenger, champion))
        return {"swap": 1.2, "adversarial": 1.6}

    monkeypatch.setattr(latency, "slowdowns", slowdowns)
    params = RegisterParams(model=model.params.model, gates=Gates(max_slowdown=1.5))
    with pytest.raises(Exception, match=r"max_slowdown: adversarial takes 1\.6 times"):
        promotion.promote(params)
    assert model.aliases() == {"champion": 1, "challenger": 2}
    tags = mlflow_client().get_model_version(model.params.model, "2").tags
    assert (tags["slowdown.adversarial.against_1"], tags["validation"]) == ("1.6", "failed")
    assert [bundle.stage_one.is_dir() for bundle in seen[0]] == [True, True]
    params = RegisterParams(model=model.params.model, gates=Gates(max_slowdown=2.0))
    assert "version 2 is champion" in promotion.promote(params)


def test_measuring_a_version_anew_replaces_its_figures_and_says_on_which_faces(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.register(1.0)

    def evaluate(*given: Any) -> None:
        _, anonymize, world, one, two, out = given
        out.mkdir()
        path = write_metrics(out / "metrics.json", Bundle(one, two, world, anonymize), fid=3.0)
        about = {"images": 20, "identities": 5, "repetitions": 1, "world": world.name}
        about["weights"] = "0123456789abcdef"  # other networks see other faces
        path.write_text(json.dumps(json.loads(path.read_text()) | {"about": about}))

    monkeypatch.setattr("deid.registry.measure.evaluate", evaluate)
    params = Params.model_validate({"register": model.params.model_dump()})
    faces = "20 faces of 5 people of the world mini (0123456789ab), 1 times"
    assert f"version 1 measured on {faces}: passed" in measure(params, "champion")
    tags = mlflow_client().get_model_version(model.params.model, "1").tags
    assert (tags["held_out"], tags["table2.swap.fid"]) == (faces, "3.0")
