"""`--expression another`: nothing of the person's expression, pose and light is drawn."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deid import api
from deid.anonymize import ModelPaths, build_swap, with_key
from deid.anonymize import swap as swap_module
from deid.anonymize.swap import Swap
from deid.batch import project
from deid.batch.pipeline import Pipeline, build_pipeline
from deid.batch.settings import RunSettings
from deid.errors import DeidError
from deid.params import AnonymizeParams
from deid.pixels import to_tensor
from deid.secret import SecretKey, new_key
from tests.toy import toy_world
from tests.toy_model import save_toy_model

GUESSABLE: tuple[tuple[dict[str, Any], bool], ...] = (
    *(({"seed": seed}, True) for seed in (0, 7, -7, 10**14 - 1)),
    *(({"seed": seed}, False) for seed in (10**14, -(10**14), 5290817736412095)),
)
"""A seed, and whether who does not know it can try all such."""

WORLD = toy_world()
SEEDS = [5, 6]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> ModelPaths:
    return save_toy_model(tmp_path_factory.mktemp("expression"))


def swap(models: ModelPaths, **settings: object) -> Swap:
    plain = build_swap(WORLD, models, AnonymizeParams(**settings))  # type: ignore[arg-type]
    return replace(plain, expression="another")


def people(seed: int) -> Tensor:
    return to_tensor(WORLD.test_faces(2, 1, seed).pixels)


def test_another_expression_is_drawn_by_the_seed_alone(models: ModelPaths) -> None:
    """Of two people whom the same donors suit, nothing is told apart."""
    anonymizer = swap(models, swap_max_similarity=1.0)
    first, second = (anonymizer(people(seed), SEEDS) for seed in (1, 2))
    torch.testing.assert_close(first, second)
    own = build_swap(WORLD, models, AnonymizeParams(swap_max_similarity=1.0))
    assert not torch.allclose(own(people(1), SEEDS), own(people(2), SEEDS), atol=1e-2)
    assert not torch.allclose(anonymizer(people(1), [7, 8]), first, atol=1e-2)


def test_steps_follow_the_stranger_and_lead_away_from_the_person(
    models: ModelPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[Tensor, ...]] = []
    refine = swap_module.refine
    monkeypatch.setattr(
        swap_module, "refine", lambda *given: (told.append(given), refine(*given))[1]
    )
    faces, anonymizer = people(1), swap(models, swap_steps=2)
    anonymizer(faces, SEEDS)
    ((_, _, shown, hidden, *_),) = told
    assert torch.equal(hidden, faces)
    assert torch.equal(shown, anonymizer._others(faces, SEEDS))


def test_every_level_of_a_run_draws_it(models: ModelPaths) -> None:
    asked = RunSettings(region="portrait", expression="another")
    built = build_pipeline(asked, WORLD, models).components.anonymizers
    swaps: list[Any] = [one for level, one in built.items() if level.startswith("swap")]
    assert len(swaps) == 4
    assert {one.inner.expression for one in swaps} == {"another"}


def test_who_gives_no_secret_is_told_that_outputs_can_be_made_again(models: ModelPaths) -> None:
    for changes, said in (({}, True), ({"expression": "own"}, False), *GUESSABLE):
        asked = RunSettings(region="portrait", **({"expression": "another"} | changes))  # type: ignore[arg-type]
        notes = build_pipeline(asked, WORLD, models).info.notes
        assert any("same output again" in note for note in notes) is said


def test_from_python_it_is_told_with_the_result_also_where_the_pipeline_is_there_already(
    models: ModelPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(_bundle: object, asked: RunSettings, **_: object) -> Pipeline:
        return build_pipeline(asked, WORLD, models)

    monkeypatch.setattr(project, "open_pipeline", build)
    monkeypatch.setattr(project.Pipelines, "world", None)
    pipelines = project.Pipelines(Any)  # type: ignore[arg-type]
    monkeypatch.setattr(api, "_pipelines", lambda *_: pipelines)
    file = tmp_path / "seed.key"
    new_key(file)
    nobody = np.zeros((96, 96, 3), np.uint8)
    for changes, said in (*GUESSABLE, ({"seed_file": file}, False)):
        asked: Any = {"region": "portrait", "expression": "another", "allow_no_face": True}
        result = api.deidentify(nobody, **(asked | changes))
        assert any("same output again" in note for note in result.notes) is said


def test_another_key_draws_another_expression(models: ModelPaths) -> None:
    """By that of the seed alone, which is 0 for most, two releases could be joined."""
    one, again, two = (with_key(swap(models), SecretKey(bytes([key]) * 32)) for key in (1, 1, 2))
    shown = [anonymizer._others(people(1), SEEDS) for anonymizer in (one, again, two, swap(models))]
    assert torch.equal(shown[0], shown[1])
    for other in shown[2:]:
        assert not torch.allclose(shown[0], other, atol=1e-2)


def test_a_portrait_then_keeps_its_own_light(models: ModelPaths) -> None:
    for expression, relit in (("own", True), ("another", False)):
        asked = RunSettings(region="portrait", expression=expression)
        assert build_pipeline(asked, WORLD, models).components.relit is relit


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"expression": "none"}, "own or another"),
        ({"expression": "another"}, "region portrait"),
        ({"expression": "another", "region": "head"}, "region portrait"),
        ({"expression": "another", "region": "portrait", "method": "adversarial"}, "method swap"),
    ],
)
def test_where_it_would_not_fit_it_is_refused(
    models: ModelPaths, asked: dict[str, str], complaint: str
) -> None:
    with pytest.raises(DeidError, match=complaint):
        build_pipeline(RunSettings(**asked), WORLD, models)  # type: ignore[arg-type]
