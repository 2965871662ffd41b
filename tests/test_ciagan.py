"""CIAGAN: what its networks see, its losses by hand, and what becomes of faces."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from deid.anonymize import RIVALS
from deid.anonymize.base import Guarded
from deid.anonymize.rivals import learned
from deid.anonymize.rivals.ciagan import CIAGAN, identity
from deid.anonymize.rivals.learned import load_trained
from deid.errors import DeidError
from deid.nets.ciagan import (
    BRIDGE,
    IDENTITIES,
    OUTLINE,
    PICTURE,
    SEEN,
    Generator,
    anonymized,
    lines,
    masks,
)
from deid.training.rivals.ciagan import (
    MARGIN,
    CIAGANTask,
    Networks,
    ciagan,
    contrastive_loss,
    proxy_nca_loss,
)
from deid.training.rivals.pictures import PictureSettings
from deid.worlds.cards import write_card
from deid.worlds.training_loop import Run
from tests.toy import toy_world

WORLD = toy_world()
PEOPLE, VIEWS = 540, 2
SEEDS = [3, 1, 4]


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(1)
    return Generator().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def faces() -> Tensor:
    z = torch.randn(3, WORLD.generator.z_dim, generator=torch.Generator().manual_seed(5))
    return WORLD.generator.synthesis(WORLD.generator.mapping(z))


def points(count: int) -> Tensor:
    """Landmarks of upright faces that differ by a few pixels, `[N,68,2]`."""
    angle = torch.linspace(math.pi, 0, 17)
    shape = torch.full((68, 2), 32.0)
    shape[:17] = torch.stack([32 + 16 * angle.cos(), 34 + 24 * angle.sin()], 1)
    shape[17:27, 1], shape[27:31, 1] = 30.0, torch.linspace(34, 44, 4)
    shape[60:68] = torch.tensor([32.0, 50.0]) + torch.randn(
        8, 2, generator=torch.Generator().manual_seed(0)
    )
    moved = torch.randint(-2, 3, (count, 1, 2), generator=torch.Generator().manual_seed(1))
    return shape + moved


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures as the stage that draws them leaves them; noise will do."""
    folder, count = tmp_path_factory.mktemp("pictures"), PEOPLE * VIEWS
    random = np.random.default_rng(0)
    np.save(folder / "pixels.npy", random.integers(0, 256, (count, 64, 64, 3), np.uint8))
    np.save(folder / "landmarks.npy", points(count).numpy())
    np.save(folder / "codes.npy", np.full((count, WORLD.identity.dim), 0.1, np.float32))
    settings = PictureSettings(WORLD.weights_sha256, people=PEOPLE, views=VIEWS)
    (folder / "settings.json").write_text(json.dumps(vars(settings)))
    return folder


@pytest.fixture(scope="module")
def task(data: Path) -> CIAGANTask:
    made = ciagan(WORLD, data, 3)
    assert isinstance(made, CIAGANTask)
    return made


# What the networks see.


def test_lines_follow_outline_and_bridge_and_not_the_eyes() -> None:
    landmarks = points(4)
    drawn = lines(landmarks)
    for picture, shape in zip(drawn[:, 0], landmarks, strict=True):
        for index in (*OUTLINE, *BRIDGE):
            x, y = shape[index].round().int().tolist()
            assert picture[y - 1 : y + 2, x - 1 : x + 2].max() > 0.5, index
        assert picture.mean() < 0.1


def test_the_mask_reaches_from_brow_to_chin_and_no_further_than_the_networks_see() -> None:
    landmarks = points(1)
    inside = masks(landmarks, PICTURE)[0, 0]
    rows, columns = inside.nonzero().T
    assert abs(rows.min() - landmarks[0, 17:27, 1].min()) <= 1
    assert abs(rows.max() - landmarks[0, OUTLINE.stop // 2, 1]) <= 1
    assert abs(columns.max() - landmarks[0, 16, 0]) <= 1
    out = landmarks - torch.tensor([30.0, 25.0])
    unseen = torch.ones(PICTURE, PICTURE)
    unseen[SEEN] = 0.0
    assert (masks(out, PICTURE)[0, 0] * unseen).sum() == 0
    large = masks(4 * landmarks, 4 * PICTURE)[0, 0]
    assert (torch.nn.functional.avg_pool2d(large[None], 4)[0] - inside).abs().mean() < 0.02


def test_nothing_of_the_face_under_the_mask_reaches_the_generator(
    faces: Tensor, generator: Generator
) -> None:
    landmarks, whom = points(3), torch.arange(3)
    inside = masks(landmarks, PICTURE)
    hidden = torch.where(inside == 1, torch.rand(faces.shape), faces)
    one, other = (anonymized(generator, each, landmarks, whom) for each in (faces, hidden))
    assert torch.allclose(one, other, atol=1e-5)
    assert not torch.equal(one, anonymized(generator, faces, landmarks, whom + 1))


# What becomes of faces.


@pytest.mark.parametrize("side", [64, 200])
def test_it_keeps_every_pixel_outside_of_the_mask(
    side: int, faces: Tensor, generator: Generator
) -> None:
    given = torch.nn.functional.interpolate(faces, size=(side, side), mode="bilinear")
    output = Guarded(CIAGAN(WORLD, generator), "ciagan")(given, SEEDS)
    inside = masks(WORLD.landmarks(given), side).expand_as(given) > 0
    assert torch.equal(output[~inside], given[~inside])
    assert (output - given)[inside].abs().mean() > 0.1


def test_a_faces_new_identity_follows_from_its_own_seed(
    faces: Tensor, generator: Generator
) -> None:
    method = CIAGAN(WORLD, generator)
    output = method(faces, SEEDS)
    assert torch.allclose(method(faces[1:2], SEEDS[1:2]), output[1:2], atol=1e-4)
    assert not torch.allclose(method(faces[1:2], [9]), output[1:2], atol=1e-2)
    drawn = [identity(seed) for seed in range(2000)]
    assert min(drawn) >= 0
    assert max(drawn) < IDENTITIES
    assert len(set(drawn)) > 0.9 * IDENTITIES


# Its losses.


def test_the_contrastive_loss_draws_one_person_together_and_two_apart_up_to_the_margin() -> None:
    a, b = torch.zeros(1, 4), torch.tensor([[2.0, 0.0, 0.0, 0.0]])
    assert float(contrastive_loss(a, b, torch.ones(1))) == pytest.approx(0.5 * 4)
    assert float(contrastive_loss(a, b, torch.zeros(1))) == pytest.approx(0.5 * (MARGIN - 2) ** 2)
    assert float(contrastive_loss(a, 2 * b, torch.zeros(1))) == 0.0


def test_proxy_nca_compares_the_own_proxy_with_all_others() -> None:
    proxies = torch.tensor([[1.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])
    found, who = torch.tensor([[7.0, 0.0]]), torch.tensor([0])
    far = [MARGIN**2 * squared for squared in (0.0, 2.0, 4.0)]
    by_hand = -math.log(math.exp(-far[0]) / (math.exp(-far[1]) + math.exp(-far[2])))
    assert float(proxy_nca_loss(found, who, proxies)) == pytest.approx(by_hand, rel=1e-4)


# How it is trained.


def test_half_of_the_pairs_show_one_person_and_targets_are_identities(task: CIAGANTask) -> None:
    same, targets = [], []
    for step in range(40):
        source, target = task.pairs(step, "generator", IDENTITIES)
        same += (task.pictures.person(source) == task.pictures.person(target)).tolist()
        targets += task.pictures.person(target).tolist()
        assert source.max() < len(task.pictures.split())
    assert 0.5 <= np.mean(same) < 0.55
    assert max(targets) < IDENTITIES
    one, again = (task.pairs(7, "generator", IDENTITIES) for _ in range(2))
    assert np.array_equal(one, again)


@pytest.mark.slow
def test_each_phase_moves_its_own_networks_only(task: CIAGANTask) -> None:
    run = Run(task)
    for phase, own in zip(
        run.phases, ("generator", "discriminator", ("siamese", "proxies")), strict=True
    ):
        before = {key: value.clone() for key, value in run.model.named_parameters()}
        run._minimize(phase)
        moved = {key for key, value in run.model.named_parameters() if (value != before[key]).any()}
        assert moved
        assert all(key.startswith(own) for key in moved)


def test_a_killed_training_resumes_to_the_same_weights(data: Path, tmp_path: Path) -> None:
    whole, resumed = (Run(ciagan(WORLD, data, 3)) for _ in range(2))
    whole.advance()
    whole.save(tmp_path / "checkpoint.pt")
    whole.advance()
    resumed.load(tmp_path / "checkpoint.pt")
    resumed.advance()
    for key, tensor in whole.trained.state_dict().items():
        assert torch.equal(tensor, resumed.trained.state_dict()[key]), key


def test_what_is_kept_draws_as_what_was_trained_and_is_what_the_method_loads(
    task: CIAGANTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faces: Tensor
) -> None:
    run = Run(task)
    run.advance()
    trained = run.trained.eval()
    assert isinstance(trained, Networks)
    landmarks, whom = points(3), torch.arange(3)
    with torch.no_grad():
        before = anonymized(trained.generator, faces, landmarks, whom)
        kept, card = task.measure(trained)
    assert all(math.isfinite(value) for value in card["figures"].values())
    write_card(tmp_path / "toy", "ciagan", kept, card)
    assert (tmp_path / "toy/ciagan.safetensors").stat().st_size <= 2.5e6
    monkeypatch.setattr(learned, "TRAINED", tmp_path)
    loaded = load_trained("ciagan", WORLD, Generator)
    assert torch.allclose(anonymized(loaded, faces, landmarks, whom), before, atol=0.02)


def test_too_few_people_are_refused(data: Path, tmp_path: Path) -> None:
    for name in ("pixels", "landmarks", "codes"):
        np.save(tmp_path / f"{name}.npy", np.load(data / f"{name}.npy")[:100])
    (tmp_path / "settings.json").write_text(json.dumps({"world": "", "people": 50, "views": 2}))
    with pytest.raises(DeidError, match="48 people to train on, CIAGAN needs 128"):
        ciagan(WORLD, tmp_path, 3)


def test_in_a_world_that_it_was_not_trained_in_it_says_so() -> None:
    with pytest.raises(DeidError, match="ciagan: not trained in the world toy"):
        RIVALS["ciagan"](WORLD)
