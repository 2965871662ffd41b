"""Donors are strangers who look like the person, and which of them it is tells nothing."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deid.anonymize import build
from deid.anonymize.donor_pool import ATTRIBUTES, DonorPool
from deid.anonymize.swap import ASKED, NEAR, Swap
from deid.attack.donors import crowds
from deid.batch.asked import anonymize_params
from deid.batch.settings import RunSettings
from deid.errors import DeidError
from deid.params import AnonymizeParams
from deid.pixels import to_tensor
from deid.seeds import torch_generator
from deid.training.donors import as_drawn
from deid.worlds.donors import ALIKE, SIMILAR, DonorBank
from deid.worlds.photo.faces import lab
from deid.worlds.world import World
from tests.toy import toy_world
from tests.toy_model import save_toy_model

COUNT, DIM = 400, 16


def bank() -> DonorBank:
    random = torch_generator("test bank")
    codes = F.normalize(torch.randn(COUNT, DIM, generator=random), dim=1)
    return DonorBank(codes, torch.randn(COUNT, 3, generator=random))


def chosen(of: DonorBank, code: Tensor, looks: Tensor, most: float, seed: int) -> Tensor:
    return of.choose(code, looks, most, NEAR, torch_generator("donor", 0, seed))


def test_a_donor_is_a_stranger_who_looks_alike() -> None:
    donors, looks = bank(), torch.zeros(3)
    code = donors.codes[donors.looks.square().sum(1).argmin()]  # the most alike is the person
    distances = []
    for seed in range(50):
        donor = chosen(donors, code, looks, 0.3, seed)
        assert donor @ code <= 0.3
        row = int((donors.codes @ donor).argmax())
        distances.append(float(donors.looks[row].norm()))
    assert max(distances) < donors.looks.norm(dim=1).median()


def test_a_seed_draws_one_of_many() -> None:
    donors, code, looks = bank(), bank().codes[0], torch.zeros(3)
    first = chosen(donors, code, looks, 0.3, 1)
    assert torch.equal(first, chosen(donors, code, looks, 0.3, 1))
    drawn = {tuple(chosen(donors, code, looks, 0.3, seed).tolist()) for seed in range(200)}
    assert len(drawn) == NEAR


def test_without_a_stranger_the_least_similar_are_asked() -> None:
    donors, code = bank(), bank().codes[0]
    least = (donors.codes @ code).sort().values[NEAR - 1]
    for seed in range(20):
        assert chosen(donors, code, torch.zeros(3), -1.0, seed) @ code <= least


def test_a_pool_knows_how_its_donors_are_drawn() -> None:
    donors = bank()
    donors.drawn = -donors.codes
    few = DonorPool.of(donors, EVERYTHING, 16)
    assert torch.equal(few.drawn, -few.codes)
    assert torch.equal(DonorPool.of(donors, EVERYTHING, None).drawn, donors.drawn)


def test_people_who_are_alike_are_near_in_code_and_in_looks() -> None:
    donors, looks = bank(), torch.zeros(2, 3)
    code = donors.codes[:2]
    alike = donors.alike(code, looks)
    assert torch.allclose(alike.norm(dim=1), torch.ones(2))
    similarity = (alike * code).sum(1)
    random = F.normalize(donors.codes[100 : 100 + ALIKE].mean(0), dim=0)
    assert (similarity > code @ random + 0.2).all()
    everybody = DonorBank(donors.codes[:SIMILAR], donors.looks[:SIMILAR])  # all are similar enough
    near = everybody.looks.square().sum(1).topk(ALIKE, largest=False).indices
    expected = F.normalize(everybody.codes[near].mean(0), dim=0)
    assert torch.allclose(everybody.alike(code, looks)[0], expected, atol=1e-6)


@pytest.mark.parametrize(("age", "tries"), [(0.3, 1), (-1.0, ASKED)])
def test_a_face_may_be_as_unlike_as_the_donors_that_there_are(
    world: World, monkeypatch: pytest.MonkeyPatch, age: float, tries: int
) -> None:
    """Nobody in the bank is as old as the person: one who is drawn as old as they are will do."""
    identity: Any = lambda images: F.normalize(images.flatten(1)[:, :DIM] + 1, dim=1)  # noqa: E731
    old, drawn_looks = torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([[age, 0.0, 0.0]])
    looks: Any = lambda images: old if images.amax() > 0 else drawn_looks  # noqa: E731
    donors = DonorBank(bank().codes, bank().looks * torch.tensor([0.1, 0.0, 0.0]))
    small: World = replace(world, identity=identity, looks=looks, donors=donors)
    tried: list[int] = []

    def synthesize(w: Tensor, side: int) -> Tensor:
        tried.append(side)
        return -torch.ones(len(w), 3, side, side)

    latent: Any = lambda codes, _: codes  # noqa: E731
    model: Any = SimpleNamespace(latent_from=latent, expression=lambda f: f, synthesize=synthesize)
    monkeypatch.setattr("deid.anonymize.swap.fringe", lambda *_: 0.0)
    monkeypatch.setattr("deid.anonymize.swap.bridge", lambda *_: 0.0)
    Swap(small, model, 0.3, 1).codes(torch.rand(1, 3, 64, 64), [0])
    assert len(tried) == tries


def test_the_bank_is_used_where_there_is_one_and_it_is_asked_for(world: World) -> None:
    identity: Any = lambda images: F.normalize(images.flatten(1)[:, :DIM] + 1, dim=1)  # noqa: E731
    looks: Any = lambda images: images.mean((2, 3))  # noqa: E731
    small: World = replace(world, identity=identity, looks=looks, donors=bank())
    faces, codes = torch.rand(2, 3, 64, 64), bank().codes
    drawn: Any = lambda w, side: torch.zeros(len(w), 3, side, side)  # noqa: E731
    latent: Any = lambda codes, _: codes  # noqa: E731
    model: Any = SimpleNamespace(
        latent_of=latent, latent_from=latent, expression=lambda faces: faces, synthesize=drawn
    )

    def from_bank(swap: Swap) -> list[bool]:
        return [bool((codes == code).all(1).any()) for code in swap.codes(faces, [0, 1])]

    assert from_bank(Swap(small, model, 0.3, 1)) == [True, True]
    assert from_bank(Swap(small, model, 0.3, 1, alike=False)) == [False, False]
    assert from_bank(Swap(replace(small, donors=None), model, 0.3, 1)) == [False, False]


def test_a_fringe_is_rather_taken_than_another_sex(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the bank's two, the woman has a fringe in any picture, and the person is a woman."""
    man, woman = F.normalize(torch.eye(2, DIM) - 0.1, dim=1)
    sex = torch.tensor([[0.0, 3.0, 0.0], [0.0, 0.0, 0.0]])
    identity: Any = lambda images: F.normalize(-torch.ones(len(images), DIM), dim=1)  # noqa: E731
    looks: Any = lambda images: images[:, :, 0, 0] * 3  # noqa: E731
    small: World = replace(
        world, identity=identity, looks=looks, donors=DonorBank(torch.stack([man, woman]), sex)
    )
    drawn: Any = lambda code, side: torch.stack(  # noqa: E731
        [
            torch.zeros(side, side),
            (code[0, 0] > 0) * torch.ones(side, side),
            torch.zeros(side, side),
        ]
    )[None]
    latent: Any = lambda codes, _: codes  # noqa: E731
    model: Any = SimpleNamespace(latent_from=latent, expression=lambda f: f, synthesize=drawn)
    monkeypatch.setattr("deid.anonymize.swap.fringe", lambda seen, _: 0.9 * (seen[0, 0, 1] < 200))
    swap = Swap(small, model, 0.3, 1)
    for seed in range(4):
        assert torch.equal(swap.codes(torch.zeros(1, 3, 64, 64), [seed])[0], woman)


def test_a_donor_who_is_drawn_like_the_person_is_passed_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both donors of the bank are strangers to the person, of whom M draws one like the person."""
    person, alike, other = F.normalize(torch.eye(3, DIM), dim=1)
    seen: Any = {0.0: person, 1.0: person, -1.0: other}
    identity: Any = lambda images: seen[images[0, 0, 0, 0].item()][None]  # noqa: E731
    looks: Any = lambda images: torch.zeros(len(images), 3)  # noqa: E731
    donors = DonorBank(torch.stack([alike, other]), torch.zeros(2, 3))
    small: World = replace(world, identity=identity, looks=looks, donors=donors)
    drawn: Any = lambda code, side: (2 * code[:, 1, None, None, None] - 1).expand(  # noqa: E731
        1, 3, side, side
    )
    latent: Any = lambda codes, _: codes  # noqa: E731
    model: Any = SimpleNamespace(latent_from=latent, expression=lambda f: f, synthesize=drawn)
    monkeypatch.setattr("deid.anonymize.swap.fringe", lambda *_: 0.0)
    monkeypatch.setattr("deid.anonymize.swap.bridge", lambda *_: 0.0)
    swap = Swap(small, model, 0.3, 1)
    for seed in range(4):
        assert torch.equal(swap.codes(torch.zeros(1, 3, 64, 64), [seed])[0], other)


def test_a_bank_has_the_looks_of_drawn_faces_and_nobody_with_a_fringe(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The toy model draws a donor in the gray of its code; where that is dark, it has a fringe."""
    looks: Any = lambda images: images.mean((2, 3))  # noqa: E731
    detector: Any = SimpleNamespace(detect=lambda images: [SimpleNamespace(boxes=[0])])
    small: World = replace(world, looks=looks, detector=detector)
    drawn: Any = lambda w, side: w[:, :1, None, None].expand(-1, 3, side, side)  # noqa: E731
    model: Any = SimpleNamespace(
        latent_from=lambda code, expression: code + 0.1 * expression,
        expression=lambda face: torch.ones(len(face), 1),
        synthesize=drawn,
    )
    monkeypatch.setattr("deid.training.donors.fringe", lambda face, _: 1.0 * (face.mean() < 100))
    codes = torch.tensor([[-0.6, 0.8], [0.6, 0.8], [0.0, 1.0]])
    made = as_drawn(small, model, DonorBank(codes, torch.full((3, 3), 9.0)))
    assert torch.equal(made.codes, codes[1:])
    assert torch.allclose(made.looks, torch.tensor([[0.7], [0.1]]).expand(2, 3))
    seen = F.normalize(small.identity(drawn(codes[1:] + 0.1, 64)), dim=1)
    assert torch.allclose(made.drawn, seen, atol=1e-4)
    assert not torch.equal(made.drawn, made.codes)
    everybody = as_drawn(small, model, made, fringes=3)
    assert torch.equal(everybody.codes, made.codes)


def test_lab_is_what_others_compute() -> None:
    from skimage.color import rgb2lab

    rgb = torch.rand(50, 3, generator=torch_generator("lab"))
    assert torch.allclose(lab(rgb), torch.from_numpy(rgb2lab(rgb.numpy())).float(), atol=0.05)


EVERYTHING = tuple(ATTRIBUTES)


def crowd(pool: DonorPool, people: int) -> Tensor:
    """For how many of so many people each donor can be drawn, `[D]`."""
    random = torch_generator("crowd")
    codes = F.normalize(torch.randn(people, DIM, generator=random), dim=1)
    looks = torch.randn(people, 3, generator=random)
    rows = [pool.asked(code, seen, 0.1, NEAR) for code, seen in zip(codes, looks, strict=True)]
    return torch.bincount(torch.cat(rows), minlength=len(pool.codes))


def test_a_donor_of_a_small_pool_could_stand_for_most_people_and_one_of_the_bank_for_few() -> None:
    whole, few = (DonorPool.of(bank(), EVERYTHING, count) for count in (None, NEAR))
    assert len(few.codes) == NEAR
    assert crowd(few, 200).min() > 100
    assert crowd(whole, 200).float().median() < 30


def test_nobody_gets_one_of_the_most_similar_donors_of_a_pool() -> None:
    few = DonorPool.of(bank(), EVERYTHING, NEAR)
    for seed, code in enumerate(few.codes):
        similar = (few.codes @ code).argsort(descending=True)[: NEAR // 4]
        donor = chosen(few, code, few.looks[seed], -1.0, seed)
        assert int((few.codes @ donor).argmax()) not in similar.tolist()


def test_a_pool_is_spread_over_the_looks_of_the_bank_and_is_the_same_for_everybody() -> None:
    few, again = (DonorPool.of(bank(), EVERYTHING, 16) for _ in range(2))
    assert torch.equal(few.codes, again.codes)
    nearest = torch.cdist(bank().looks, few.looks).argmin(1)
    assert torch.bincount(nearest, minlength=16).min() >= COUNT // 16 // 3
    assert len(DonorPool.of(bank(), EVERYTHING, 2 * COUNT).codes) == COUNT


def test_an_attack_says_for_whom_each_donor_could_have_been_drawn() -> None:
    """Outputs that tell their donors quite plainly: the bank's narrow the person down, those of a
    small pool do not."""
    toy = toy_world()
    pictures = toy.test_faces(40, 1, 5).pixels
    faces = to_tensor(pictures)
    looks: Any = lambda images: images.mean((2, 3)) / 2  # noqa: E731
    drawn = to_tensor(toy.test_faces(COUNT, 1, 6).pixels)
    codes = toy.identity(drawn)
    donors = DonorBank(codes, looks(drawn), codes.roll(7, 0))  # drawn like another one
    small: World = replace(toy, looks=looks, donors=donors)
    seen = list(zip(toy.identity(faces), looks(faces), strict=True))
    figures = {}
    for count in (None, NEAR):
        settings = AnonymizeParams(swap_pool=count, swap_max_similarity=1.0)
        pool = DonorPool.of(donors, EVERYTHING, count)
        outputs = torch.stack(
            [pool.choose(*who, 1.0, NEAR, torch_generator("d", i)) for i, who in enumerate(seen)]
        )
        told = pool.drawn[(outputs @ pool.codes.T).argmax(1)].double().numpy()
        figures[count] = crowds(small, settings, pictures, told, np.arange(40)).figures()
    assert figures[None]["guess"] > 3 * figures[None]["chance"]
    assert figures[NEAR]["guess"] < 1.7 * figures[NEAR]["chance"]
    assert figures[NEAR]["own"] > 0.9
    assert figures[NEAR]["alone"] < 0.5 < figures[None]["alone"]
    with pytest.raises(DeidError, match="needs a world with a bank of donors"):
        crowds(toy, AnonymizeParams(), pictures, told, np.arange(40))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"donor_pool": 2}, "--donor-pool 2: must be 4 or more"),
        ({"donor_pool": 24, "key": "k"}, "only --method swap without a --key has donors"),
        ({"donor_pool": 24, "method": "blur"}, "only --method swap without a --key has donors"),
    ],
)
def test_a_pool_is_of_a_swap(asked: dict[str, Any], said: str) -> None:
    assert anonymize_params(RunSettings(donor_pool=24)).swap_pool == 24
    with pytest.raises(DeidError, match=said):
        anonymize_params(RunSettings(**asked))


def test_a_pool_is_of_a_world_with_a_bank(tmp_path: Path) -> None:
    models = save_toy_model(tmp_path)
    with pytest.raises(DeidError, match="needs a world with a bank of donors"):
        build("swap", toy_world(), models, AnonymizeParams(swap_pool=8))
