"""Gradient steps on w from M's answer: refinement of a swap, and inversion."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from deid.anonymize import ModelPaths, build
from deid.anonymize import invert as invert_module
from deid.anonymize import refine as refine_module
from deid.anonymize.descent import Descent
from deid.anonymize.invert import invert
from deid.anonymize.refine import STEPS, refine
from deid.anonymize.strangers import Strangers
from deid.batch.asked import anonymize_params
from deid.batch.settings import RunSettings
from deid.errors import DeidError
from deid.gate.fallback import FEW_STEPS, build_anonymizers
from deid.losses import landmark_loss
from deid.model import Deidentifier
from deid.params import AnonymizeParams
from deid.pixels import to_tensor
from deid.seeds import torch_generator
from deid.worlds.donors import DonorBank
from tests.conftest import ROOT
from tests.toy import ToyContours, ToyEmbedder, toy_world
from tests.toy_model import save_toy_model

WORLD = toy_world()
STRANGER = 0.1
"""A cosine with the person that is low enough."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> ModelPaths:
    return save_toy_model(tmp_path_factory.mktemp("refine"))


@pytest.fixture(scope="module")
def model(models: ModelPaths) -> Deidentifier:
    return Deidentifier.load(models.stage_one, None, WORLD)


@pytest.fixture(scope="module")
def faces() -> Tensor:
    return to_tensor(WORLD.test_faces(4, 1, 3).pixels)


def test_a_second_descent_is_held_to_where_the_first_one_began() -> None:
    answer = torch.zeros(1, 4)
    start, flat = answer + 2.0, lambda w: 0.0 * w.sum()
    free = refine_module.descend(start, flat, 20, 0.1, 1.0)
    held = refine_module.descend(start, flat, 20, 0.1, 1.0, answer)
    assert torch.equal(free, start)
    assert (held < start - 0.5).all()


def donors_of(faces: Tensor) -> Tensor:
    return WORLD.identity(faces).roll(1, 0)


def asked(model: Deidentifier, faces: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """M's answers, the faces, whom they show, and their donors."""
    donors = donors_of(faces)
    return model.latent_of(donors, faces), faces, faces, donors


def refined(model: Deidentifier, faces: Tensor, steps: int) -> Tensor:
    return refine(model, *asked(model, faces), steps, (STRANGER,))


def missed(model: Deidentifier, w: Tensor, faces: Tensor) -> float:
    points = (WORLD.landmarks(images) for images in (faces, model.synthesize(w)))
    return float(landmark_loss(*points, faces.shape[-1]))


def test_more_steps_follow_the_expression_more_closely(model: Deidentifier, faces: Tensor) -> None:
    misses = [missed(model, refined(model, faces, steps), faces) for steps in (0, 4, STEPS)]
    assert misses[0] > misses[1] > misses[2]


def test_no_step_leaves_what_m_answered(model: Deidentifier, faces: Tensor) -> None:
    assert torch.allclose(refined(model, faces, 0), model.latent_of(donors_of(faces), faces))


def test_steps_lead_away_from_the_person(
    model: Deidentifier, faces: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whom the donors are takes no part here."""
    monkeypatch.setattr(refine_module, "DONOR", 0.0)
    likeness = []
    for weight in (0.0, 1.0):
        monkeypatch.setattr(refine_module, "PERSON", weight)
        outputs = model.synthesize(refined(model, faces, 8))
        likeness.append((WORLD.identity(outputs) * WORLD.identity(faces)).sum(1).mean())
    assert likeness[1] < likeness[0] - 0.02


def test_the_view_that_is_most_alike_counts(
    model: Deidentifier, faces: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps that see the plain picture alone leave a view in which the person is known better."""
    monkeypatch.setattr(refine_module, "DONOR", 0.0)
    seen, worst = refine_module.views, []
    for views in (lambda output: output, seen):
        monkeypatch.setattr(refine_module, "views", views)
        outputs = model.synthesize(refine(model, *asked(model, faces), 8, (-1.0,)))
        codes = [WORLD.identity(seen(output)) for output in outputs.split(1)]
        known = [
            float((code @ own).max())
            for code, own in zip(codes, WORLD.identity(faces), strict=True)
        ]
        worst.append(sum(known) / len(known))
    assert worst[1] < worst[0] - 0.01


def test_steps_lead_away_from_the_person_in_every_recognizer_of_the_ensemble(
    models: ModelPaths, faces: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refine_module, "DONOR", 0.0)
    other, known = ToyEmbedder("another").eval(), []
    for ensemble in ({}, {"another": other}):
        model = Deidentifier.load(models.stage_one, None, replace(WORLD, ensemble=ensemble))
        strangers = [-1.0] * len(model.world.attacked)
        outputs = model.synthesize(refine(model, *asked(model, faces), 8, strangers))
        known.append((other(outputs) * other(faces)).sum(1).mean())
    assert known[1] < known[0] - 0.02


def test_steps_go_on_while_one_recognizer_knows_the_person(
    models: ModelPaths, faces: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = replace(WORLD, ensemble={"another": ToyEmbedder("another").eval()})
    model, taken = Deidentifier.load(models.stage_one, None, world), []
    descend = refine_module.descend
    monkeypatch.setattr(
        refine_module, "descend", lambda *given: (taken.append(given[2]), descend(*given))[1]
    )
    for strangers in ((1.0, 1.0), (-1.0, 1.0), (1.0, -1.0)):
        refine(model, *(one[:1] for one in asked(model, faces)), 2, strangers)
    assert len(taken) == 1 + 2 + 2


def looks_of(images: Tensor) -> Tensor:
    """As if mean colors told age, sex and skin."""
    return images.mean((2, 3)) * 5.0


def test_steps_keep_the_looks_that_count_near_those_that_are_wanted(
    models: ModelPaths, faces: Tensor
) -> None:
    looks: Any = looks_of
    model = Deidentifier.load(models.stage_one, None, replace(WORLD, looks=looks))
    wanted = looks_of(faces) + torch.tensor([3.0, 0.0, -3.0])

    def off(*asked_looks: Any) -> Tensor:
        w = refine(model, *asked(model, faces), 8, (STRANGER,), *asked_looks)
        return (looks_of(model.synthesize(w)) - wanted).abs().mean(0)

    without, both, first = off(), off(wanted, (0, 2)), off(wanted, (0,))
    assert (both[[0, 2]] < without[[0, 2]] - 0.2).all()
    assert first[0] < without[0] - 0.2
    assert first[2] > both[2] + 0.2


def test_strangers_of_the_ensemble_are_drawn() -> None:
    other = ToyEmbedder("another").eval()
    found = Strangers(replace(WORLD, ensemble={"another": other}), 6).likenesses
    assert len(found) == 2
    assert -0.5 < found[1] < 1.0
    assert found[1] != found[0]


@pytest.mark.parametrize(("stranger", "rounds"), [(1.0, 1), (-1.0, 2)])
def test_steps_go_on_while_a_view_is_more_like_the_person_than_a_stranger(
    model: Deidentifier,
    faces: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    stranger: float,
    rounds: int,
) -> None:
    taken: list[int] = []
    descend = refine_module.descend

    def counted(*given: Any) -> Tensor:
        taken.append(given[2])
        return descend(*given)

    monkeypatch.setattr(refine_module, "descend", counted)
    refine(model, *(one[:1] for one in asked(model, faces)), 2, (stranger,))
    assert taken == [2] * rounds


def test_a_stranger_is_as_alike_as_two_people_of_the_bank_are() -> None:
    codes = WORLD.identity(to_tensor(WORLD.test_faces(6, 1, 9).pixels))
    banked = replace(WORLD, donors=DonorBank(codes, torch.zeros(6, 3)))
    others = (codes @ codes.T)[~torch.eye(6, dtype=torch.bool)]
    assert Strangers(banked).likenesses == pytest.approx((float(others.mean()),), abs=1e-6)


def test_faces_of_a_batch_do_not_interact(model: Deidentifier, faces: Tensor) -> None:
    together = refined(model, faces, 4)
    alone = refine(model, *(one[1:2] for one in asked(model, faces)), 4, (STRANGER,))
    assert torch.allclose(together[1:2], alone, atol=1e-5)


def test_mouth_and_eyes_open_as_far_where_a_world_sees_them(faces: Tensor) -> None:
    contours = ToyContours(WORLD.landmarks)
    seen = replace(WORLD, contours=contours)
    torch.manual_seed(0)  # of M's first weights, whatever ran before
    model = Deidentifier(seen, (16, 16, 16), torch.zeros(16), torch.ones(16))

    def off(steps: int) -> float:
        outputs = model.synthesize(refined(model, faces, steps))
        before, after = (contours.openings(contours(images)) for images in (faces, outputs))
        return float((before - after).square().mean())

    assert off(8) < 0.9 * off(0)


def test_swap_takes_as_many_steps_as_it_is_told(models: ModelPaths, faces: Tensor) -> None:
    outputs = [
        build("swap", WORLD, models, AnonymizeParams(swap_steps=steps))(faces, range(4))
        for steps in (0, 3)
    ]
    assert not torch.allclose(*outputs, atol=0.01)


def test_a_face_that_was_recognized_is_refined_a_little_and_then_more(
    models: ModelPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels: Any = build_anonymizers("swap", WORLD, models, AnonymizeParams())
    steps = {name: level.inner.steps for name, level in levels.items() if "swap" in name}
    assert steps == {"swap": 0, "swap+1": FEW_STEPS, "swap+2": STEPS, "swap+3": STEPS}
    assert FEW_STEPS < STEPS
    assert levels["swap+2"] is levels["swap+3"]


def test_quality_asks_for_steps() -> None:
    assert anonymize_params(RunSettings()).swap_steps == 0
    high = anonymize_params(RunSettings(quality="high"))
    assert (high.swap_steps, high.adversarial_steps) == (STEPS, invert_module.STEPS)
    asked = RunSettings(anonymize=AnonymizeParams(swap_steps=5))
    assert anonymize_params(asked).swap_steps == 5
    with pytest.raises(DeidError, match="--quality best: unknown; choose normal or high"):
        anonymize_params(RunSettings(quality="best"))


def test_inversion_draws_the_person_and_m_only_somebody_alike(
    models: ModelPaths, faces: Tensor
) -> None:
    pixels, likeness = [], []
    for method in ("reconstruction", "inversion"):
        output = build(method, WORLD, models, AnonymizeParams())(faces, range(4))
        pixels.append(float((output - faces).abs().mean()))
        likeness.append(float((WORLD.identity(output) * WORLD.identity(faces)).sum(1).mean()))
    assert pixels[1] < 0.8 * pixels[0]
    assert likeness[1] > likeness[0]


def test_w_plus_has_a_row_for_every_layer_and_faces_do_not_interact(
    model: Deidentifier, faces: Tensor
) -> None:
    together, alone = invert(model, faces, 4), invert(model, faces[2:3], 4)
    assert together.shape == (4, WORLD.generator.num_ws, WORLD.generator.w_dim)
    assert torch.allclose(together[2:3], alone, atol=1e-5)


def test_the_adversarial_way_can_start_from_the_inversion(
    models: ModelPaths, faces: Tensor
) -> None:
    model = Deidentifier.load(models.stage_one, models.stage_two, WORLD)
    w = model.latent(faces, faces)
    way = 2.0 * (model.adversarial_latent(w) - w)
    wanted = model.synthesize(invert(model, faces, 3) + way[:, None]).clamp(-1.0, 1.0)
    settings = AnonymizeParams(adversarial_steps=3, adversarial_stretch=2.0)
    output = build("adversarial", WORLD, models, settings)(faces, range(4))
    assert torch.allclose(output, wanted, atol=1e-4)


def test_the_parameters_choose_donors_unless_the_run_does() -> None:
    of_project = AnonymizeParams(swap_donors="any")
    assert anonymize_params(RunSettings(anonymize=of_project)).swap_donors == "any"
    assert anonymize_params(RunSettings(donor="alike", anonymize=of_project)).swap_donors == "alike"
    with pytest.raises(DeidError, match="--donor twin: unknown"):
        anonymize_params(RunSettings(donor="twin"))


def test_a_descent_is_torchs_adam_bit_for_bit() -> None:
    target = torch.randn(3, 7, generator=torch_generator("test/descent"))
    ours, theirs = (torch.zeros(3, 7, requires_grad=True) for _ in range(2))
    descent = Descent(ours, 0.1, (0.8, 0.95), 1e-5)
    adam = torch.optim.Adam([theirs], 0.1, (0.8, 0.95), 1e-5)
    for step in range(6):
        descent.rate = adam.param_groups[0]["lr"] = 0.1 / (1 + step)
        descent.step((ours - target).square().sum())
        adam.zero_grad()
        (theirs - target).square().sum().backward()
        adam.step()
    assert torch.equal(ours, theirs)


def test_gradient_steps_do_not_wait_for_torchs_compiler() -> None:
    code = """
import sys, torch
from deid.anonymize.refine import descend
moved = descend(torch.ones(1, 4), lambda w: w.square().sum(), 3, 0.1, 0.0)
assert (moved < 1).all()
sys.exit("torch._dynamo" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=300)
