"""Gradient steps on w from M's answer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from deid.anonymize import ModelPaths, build
from deid.anonymize.refine import STEPS, refine
from deid.batch.pipeline import _anonymize
from deid.batch.settings import RunSettings
from deid.errors import DeidError
from deid.gate.fallback import build_anonymizers
from deid.losses import landmark_loss
from deid.model import Deidentifier
from deid.params import AnonymizeParams
from deid.pixels import to_tensor
from tests.toy import ToyContours, toy_world
from tests.toy_model import save_toy_model

WORLD = toy_world()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> ModelPaths:
    return save_toy_model(tmp_path_factory.mktemp("refine"))


@pytest.fixture(scope="module")
def model(models: ModelPaths) -> Deidentifier:
    return Deidentifier.load(models.stage_one, None, WORLD)


@pytest.fixture(scope="module")
def faces() -> Tensor:
    return to_tensor(WORLD.test_faces(4, 1, 3).pixels)


def donors_of(faces: Tensor) -> Tensor:
    return WORLD.identity(faces).roll(1, 0)


def refined(model: Deidentifier, faces: Tensor, steps: int) -> Tensor:
    donors = donors_of(faces)
    return refine(model, model.latent_of(donors, faces), faces, donors, steps)


def missed(model: Deidentifier, w: Tensor, faces: Tensor) -> float:
    points = (WORLD.landmarks(images) for images in (faces, model.synthesize(w)))
    return float(landmark_loss(*points, faces.shape[-1]))


def test_more_steps_follow_the_expression_more_closely(model: Deidentifier, faces: Tensor) -> None:
    misses = [missed(model, refined(model, faces, steps), faces) for steps in (0, 4, STEPS)]
    assert misses[0] > misses[1] > misses[2]


def test_no_step_leaves_what_m_answered(model: Deidentifier, faces: Tensor) -> None:
    assert torch.allclose(refined(model, faces, 0), model.latent_of(donors_of(faces), faces))


def test_the_person_is_not_drawn_nearer(model: Deidentifier, faces: Tensor) -> None:
    """Where the donor is the person, the steps lead away from it."""
    codes = WORLD.identity(faces)
    w = model.latent_of(codes, faces)
    likeness = [
        (WORLD.identity(model.synthesize(x)) * codes).sum(1).mean()
        for x in (w, refine(model, w, faces, donors_of(faces), 8))
    ]
    assert likeness[1] < likeness[0]


def test_faces_of_a_batch_do_not_interact(model: Deidentifier, faces: Tensor) -> None:
    donors = donors_of(faces)
    together = refined(model, faces, 4)
    w = model.latent_of(donors[1:2], faces[1:2])
    alone = refine(model, w, faces[1:2], donors[1:2], 4)
    assert torch.allclose(together[1:2], alone, atol=1e-3)


def test_lips_and_lids_are_followed_where_a_world_has_them(
    models: ModelPaths, tmp_path: Path, faces: Tensor
) -> None:
    seen = replace(WORLD, contours=ToyContours(WORLD.landmarks))
    blind = Deidentifier(WORLD, (16, 16, 16), torch.zeros(16), torch.ones(16))
    telling = Deidentifier(seen, (16, 16, 16), torch.zeros(16), torch.ones(16))

    def open_wide(w: Tensor) -> float:
        points = (ToyContours(WORLD.landmarks)(x) for x in (faces, blind.synthesize(w)))
        before, after = (ToyContours(WORLD.landmarks).openings(p) for p in points)
        return float((before - after).square().mean())

    start = blind.latent_of(donors_of(faces), faces)
    ends = [refine(m, start, faces, donors_of(faces), 8) for m in (blind, telling)]
    assert open_wide(ends[1].detach()) < open_wide(ends[0].detach())


def test_swap_takes_as_many_steps_as_it_is_told(models: ModelPaths, faces: Tensor) -> None:
    outputs = [
        build("swap", WORLD, models, AnonymizeParams(swap_steps=steps))(faces, range(4))
        for steps in (0, 3)
    ]
    assert not torch.allclose(*outputs, atol=0.01)


def test_a_face_that_was_recognized_is_refined(
    models: ModelPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels: Any = build_anonymizers("swap", WORLD, models, AnonymizeParams())
    steps = {name: level.inner.steps for name, level in levels.items() if "swap" in name}
    assert steps == {"swap": 0, "swap+1": STEPS, "swap+2": STEPS}
    assert levels["swap+1"] is levels["swap+2"]


def test_quality_asks_for_steps() -> None:
    assert _anonymize(RunSettings()).swap_steps == 0
    assert _anonymize(RunSettings(quality="high")).swap_steps == STEPS
    asked = RunSettings(anonymize=AnonymizeParams(swap_steps=5))
    assert _anonymize(asked).swap_steps == 5
    with pytest.raises(DeidError, match="--quality best: unknown; choose normal or high"):
        _anonymize(RunSettings(quality="best"))
