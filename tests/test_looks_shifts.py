"""New faces are as old as the person: what makes one older, and of whom it is asked."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deid.anonymize import build, build_swap
from deid.anonymize import swap as swap_module
from deid.anonymize.steering import SMALL, Steering, drawn_at
from deid.anonymize.swap import FLAWLESS, Swap
from deid.model import Deidentifier
from deid.params import AnonymizeParams
from deid.pixels import to_tensor
from deid.secret import SecretKey
from deid.worlds.cards import read_verified
from deid.worlds.donors import DonorBank
from deid.worlds.looks_shifts import LEFT, MOST, SHARE, LooksShifts
from deid.worlds.photo.generator import OURS
from deid.worlds.world import SEX, World
from tests.test_head_turn import OneFurther
from tests.toy import toy_world
from tests.toy_model import save_toy_model

WORLD = toy_world()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_shifts_are_learned_from_faces_and_change_what_is_asked_alone() -> None:
    w = random(3000, 16) @ random(16, 16, seed=1) + 3.0
    maps = random(16, 3, seed=2)
    maps[:, 2] += 0.7 * maps[:, 0]  # the old wear glasses more often
    told = w @ maps + 0.3 * random(3000, 3, seed=3)
    shifts = LooksShifts.fitted(w, told[:, :2], told[:, 2:])
    assert shifts.directions.shape == (2, 16)
    looks = told[:1, :2]
    older = shifts.shifted(w[:1], looks, looks + torch.tensor([2.0, 5.0]), (0,))
    change = ((older - w[:1]) @ maps)[0]
    torch.testing.assert_close(
        change, torch.tensor([(2.0 - LEFT) * SHARE, 0.0, 0.0]), atol=0.2, rtol=0
    )


def test_no_difference_is_followed_that_nobody_sees_or_believes() -> None:
    shifts, none = LooksShifts(torch.eye(2, 4)), torch.zeros(1, 2)
    far = shifts.shifted(torch.zeros(1, 4), none, torch.tensor([[90.0, -90.0]]))
    near = shifts.shifted(torch.zeros(1, 4), none, torch.tensor([[LEFT, -LEFT]]))
    assert not near.any()
    torch.testing.assert_close(far, SHARE * (MOST - LEFT) * torch.tensor([[1.0, -1.0, 0.0, 0.0]]))


class Told(LooksShifts):
    """Remembers what it is told, and goes one further."""

    def __init__(self) -> None:
        super().__init__(torch.zeros(5, 16))
        self.told: list[tuple[Tensor, Tensor, tuple[int, ...]]] = []

    def shifted(self, w: Tensor, looks: Tensor, wanted: Tensor, columns: Any = None) -> Tensor:
        self.told.append((looks, wanted, tuple(columns)))
        return w + torch.eye(16)[0]


def looks_of(faces: Tensor) -> Tensor:
    """`[N,5]`, which tell faces apart."""
    side = faces.shape[-1]
    return torch.stack([faces[:, i % 3, i * side // 8 :].mean((1, 2)) for i in range(5)], 1)


def world_with(shifts: LooksShifts) -> World:
    bank = DonorBank(F.normalize(random(40, WORLD.identity.dim)), random(40, 5, seed=1))
    looks: Any = looks_of
    return replace(WORLD, donors=bank, looks=looks, shifts=shifts)


def test_a_swap_draws_somebody_of_the_looks_that_are_kept(tmp_path: Path) -> None:
    models, shifts = save_toy_model(tmp_path), Told()
    world = world_with(shifts)
    model = Deidentifier.load(models.stage_one, None, world)
    faces = to_tensor(WORLD.test_faces(2, 1, 3).pixels)
    swap = Swap(world, model, 1.0, 1, keep=("age", "sex"))
    donors = torch.eye(2, WORLD.identity.dim)
    w = model.latent_of(donors, faces)
    led = swap.given(donors, faces)
    torch.testing.assert_close(led, model.synthesize(w + torch.eye(16)[0]).clamp(-1.0, 1.0))
    ((drawn, wanted, columns),) = shifts.told
    assert columns == (0, SEX)
    torch.testing.assert_close(wanted, looks_of(faces))
    before = looks_of(model.synthesize(w).clamp(-1.0, 1.0))
    torch.testing.assert_close(drawn, before, atol=0.05, rtol=0)
    swap.given(donors, faces.flip(0), faces)  # with somebody else's expression, still the person's
    torch.testing.assert_close(shifts.told[1][1], looks_of(faces))


def test_donors_are_looked_at_as_they_will_be_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, shifts = save_toy_model(tmp_path), Told()
    world = world_with(shifts)
    model = Deidentifier.load(models.stage_one, None, world)
    faces = to_tensor(WORLD.test_faces(1, 1, 3).pixels)
    judged: list[Tensor] = []
    monkeypatch.setattr(Swap, "_flaw", lambda _, drawn, *__: judged.append(drawn) or FLAWLESS)
    donor = Swap(world, model, 1.0, 1).codes(faces, [0])
    w = model.latent_from(donor, model.expression(faces)) + torch.eye(16)[0]
    torch.testing.assert_close(judged[0], drawn_at(model, w, SMALL), atol=1e-4, rtol=0)
    assert torch.equal(shifts.told[0][1], looks_of(faces))
    made = Swap(world, model, 1.0, 1)(faces, [0])
    torch.testing.assert_close(made, drawn_at(model, w, faces.shape[-1]), atol=1e-4, rtol=0)


def test_who_looks_aside_is_turned_and_led(tmp_path: Path) -> None:
    models, shifts, turns = save_toy_model(tmp_path), Told(), OneFurther()
    turns.away = np.array([5.0, 25.0])
    world = replace(world_with(shifts), turns=turns)
    model = Deidentifier.load(models.stage_one, None, world)
    faces, w = to_tensor(WORLD.test_faces(2, 1, 3).pixels), random(2, 16)
    steering = Steering(world, model, turning=False, columns=(0,))
    led = steering(w, steering.aim(faces, faces)) - w
    torch.testing.assert_close(led, torch.tensor([[1.0], [2.0]]) * torch.eye(16)[:1])


@pytest.mark.parametrize("farthest", [None, 0.01])
def test_an_adversarial_face_keeps_the_looks_of_the_person(
    tmp_path: Path, farthest: float | None
) -> None:
    models, shifts = save_toy_model(tmp_path), Told()
    faces = to_tensor(WORLD.test_faces(2, 1, 3).pixels)
    settings = AnonymizeParams(adversarial_distance=farthest)
    outputs = [
        build("adversarial", world, models, settings)(faces, [0, 1])
        for world in (WORLD, world_with(shifts))
    ]
    ((_, wanted, columns),) = shifts.told
    assert columns == (0, 1, 2, 3, 4)
    assert torch.equal(wanted, looks_of(faces))
    assert (outputs[0] - outputs[1]).abs().max() > 0.01
    refined = AnonymizeParams(adversarial_steps=1)  # from the very person
    build("adversarial", world_with(shifts), models, refined)(faces, [0, 1])
    assert len(shifts.told) == 1


@pytest.mark.parametrize(
    "settings",
    [{"swap_pool": 4}, {"swap_donors": "any"}, {"swap_keep": ("pose",)}, {"key": True}],
)
def test_looks_are_not_led_where_outputs_are_to_tell_less(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    """Of a few donors for everybody and of a key's, looks of the very photograph would tell more;
    who wants any donor wants no looks."""
    models, shifts = save_toy_model(tmp_path), Told()
    key = SecretKey(b"k" * 32) if settings.pop("key", False) else None
    built: Any = build("swap", world_with(shifts), models, AnonymizeParams(**settings), key)
    built.inner(to_tensor(WORLD.test_faces(1, 1, 3).pixels), [0])
    assert not shifts.told


def test_looks_are_not_led_beside_another_expression(tmp_path: Path) -> None:
    models, shifts = save_toy_model(tmp_path), Told()
    swap = build_swap(world_with(shifts), models, AnonymizeParams())
    faces = to_tensor(WORLD.test_faces(1, 1, 3).pixels)
    replace(swap, expression="another")(faces, [0])
    assert not shifts.told
    swap(faces, [0])
    assert shifts.told


def test_gradient_steps_keep_the_looks_that_are_led(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, told = save_toy_model(tmp_path), []
    refine = swap_module.refine
    monkeypatch.setattr(
        swap_module, "refine", lambda *given: (told.append(given[-2:]), refine(*given))[1]
    )
    faces = to_tensor(WORLD.test_faces(1, 1, 3).pixels)
    for settings in ({}, {"swap_keep": ("age",)}, {"swap_donors": "any"}):
        asked = AnonymizeParams(swap_steps=1, **settings)  # type: ignore[arg-type]
        build_swap(world_with(Told()), models, asked)(faces, [0])
    (all_looks, every), (_, age), (none, _) = told
    assert torch.equal(all_looks, looks_of(faces))
    assert (tuple(every), tuple(age)) == ((0, 1, 2, 3, 4), (0,))
    assert none is None


def test_a_world_without_shifts_draws_what_stage_one_says(tmp_path: Path) -> None:
    models = save_toy_model(tmp_path)
    model = Deidentifier.load(models.stage_one, None, WORLD)
    faces = to_tensor(WORLD.test_faces(2, 1, 3).pixels)
    w = random(2, 16)
    steering = Steering(WORLD, model, turning=True, columns=(0, 1))
    assert torch.equal(steering(w, steering.aim(faces, faces)), w)
    assert build_swap(WORLD, models, AnonymizeParams()).steering.columns == ()


def test_the_shipped_shifts_are_those_of_their_card() -> None:
    state, _ = read_verified(OURS, "shifts")
    directions = LooksShifts(**state).directions
    assert directions.shape == (5, 512)
    assert torch.isfinite(directions).all()
