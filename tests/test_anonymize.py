"""Anonymizers: what each method must do to a face, and what none may do."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from deid.anonymize import METHODS, RIVALS, ModelPaths, build
from deid.anonymize.base import Anonymizer, Guarded
from deid.anonymize.blur import Blur
from deid.anonymize.gradient import FGSM, MIFGSM, PGD
from deid.anonymize.mask import Mask
from deid.anonymize.pixelate import Pixelate
from deid.anonymize.swap import Swap
from deid.diversity import diversify, draw_changes
from deid.errors import DeidError
from deid.model import Deidentifier
from deid.params import AnonymizeParams
from deid.seeds import torch_generator
from deid.training.rivals.__main__ import TASKS
from deid.worlds.world import FaceEmbedder
from tests.toy import ToyEmbedder, toy_world
from tests.toy_model import save_toy_model

SEEDS = [3, 1, 4, 15, 9]
ALL = [
    *METHODS,
    *(name for name in RIVALS if name not in TASKS and name != "undetected"),  # not in toy worlds
    "reconstruction",
    "inversion",
    "inversion-w",
    "fgsm-0.03",
    "pgd-0.1",
    "mifgsm-0.1",
    "tidim-0.1",
]
WORLD = toy_world()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> ModelPaths:
    return save_toy_model(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def faces() -> Tensor:
    z = torch.randn(len(SEEDS), WORLD.generator.z_dim, generator=torch_generator("test faces"))
    return WORLD.generator.synthesis(WORLD.generator.mapping(z))


def cosines(a: Tensor, b: Tensor) -> Tensor:
    return (WORLD.identity(a) * WORLD.identity(b)).sum(1)


def make(method: str, models: ModelPaths | None) -> Anonymizer:
    return build(method, WORLD, models, AnonymizeParams())


Once = Callable[[str], tuple[Anonymizer, Tensor]]


@pytest.fixture(scope="module")
def once(models: ModelPaths, faces: Tensor) -> Once:
    """What a method makes of the faces, made once; and they must be as they were."""

    @functools.cache
    def made(method: str) -> tuple[Anonymizer, Tensor]:
        torch.manual_seed(1)
        before = faces.clone()
        anonymizer = make(method, models)
        output = anonymizer(faces, SEEDS)
        assert torch.equal(faces, before)
        return anonymizer, output

    return made


@pytest.mark.parametrize("method", ALL)
class TestEveryMethod:
    def test_keeps_shape_range_and_its_input(self, method: str, faces: Tensor, once: Once) -> None:
        anonymizer, output = once(method)
        assert anonymizer.name == method
        assert output.shape == faces.shape
        assert output.dtype == torch.float32
        assert output.abs().max() <= 1.0
        assert not output.requires_grad
        assert not torch.allclose(output, faces, atol=0.01)

    def test_is_deterministic_and_ignores_the_global_random_state(
        self, method: str, models: ModelPaths, faces: Tensor, once: Once
    ) -> None:
        _, first = once(method)
        torch.manual_seed(2)
        assert torch.equal(first, make(method, models)(faces, SEEDS))

    def test_is_blind_to_the_rest_of_the_batch(
        self, method: str, models: ModelPaths, faces: Tensor, once: Once
    ) -> None:
        _, whole = once(method)
        order = [4, 2]
        part = make(method, models)(faces[order], [SEEDS[i] for i in order])
        # A sign flips where a gradient is a float's noise away from zero: hence the share.
        same = (part - whole[order]).abs() < 1e-4
        assert same.float().mean() > 0.999

    def test_empty_batch_gives_empty_batch(self, method: str, models: ModelPaths) -> None:
        assert make(method, models)(torch.zeros(0, 3, 64, 64), []).shape == (0, 3, 64, 64)


@pytest.mark.parametrize("method", ["fgsm", "pgd", "mifgsm", "tidim", "blur", "pixelate", "mask"])
@pytest.mark.parametrize("size", [(40, 56), (7, 5), (130, 130)])
def test_classical_and_gradient_methods_take_any_size(method: str, size: tuple[int, int]) -> None:
    faces = torch.rand(2, 3, *size, generator=torch_generator("any size")) * 2 - 1
    anonymizer = make(method, None)
    assert anonymizer.resolution is None
    assert anonymizer(faces, [0, 1]).shape == faces.shape


@pytest.mark.parametrize("epsilon", [0.01, 0.03, 0.1])
def test_gradient_attacks_stay_within_epsilon_and_lower_the_cosine(
    epsilon: float, faces: Tensor
) -> None:
    """Against an encoder to which a mirrored face is the same, as a real one is trained to be."""

    def even(images: Tensor) -> Tensor:
        return normalize(WORLD.identity(images) + WORLD.identity(images.flip(3)))

    def cosines(a: Tensor, b: Tensor) -> Tensor:
        return (even(a) * even(b)).sum(1)

    even.dim = WORLD.identity.dim  # type: ignore[attr-defined]
    identity = cast(FaceEmbedder, even)
    fgsm = FGSM(identity, epsilon)(faces, SEEDS)
    pgd = PGD(identity, epsilon, steps=10)(faces, SEEDS)
    noise = torch.rand(faces.shape, generator=torch_generator("noise")) * 2 - 1
    random = (faces + 2 * epsilon * noise.sign()).clamp(-1, 1)
    momentum = MIFGSM(identity, epsilon, steps=10)(faces, SEEDS)
    smooth = MIFGSM(identity, epsilon, steps=10, smooth=True)(faces, SEEDS)
    for output in (fgsm, pgd, momentum, smooth):
        # Half the tensor's range is one unit of intensity.
        assert ((output - faces).abs() / 2).max() <= epsilon + 1e-6
        assert (cosines(output, faces) < cosines(random, faces)).all()
    for stronger in (pgd, momentum) if epsilon > 0.01 else ():  # there one step is as good
        assert cosines(stronger, faces).mean() < cosines(fgsm, faces).mean()


def test_fgsm_takes_its_gradient_at_the_face_itself_changed_by_input_diversity(
    faces: Tensor,
) -> None:
    point = faces.clone().requires_grad_()
    changes = torch.cat(
        [draw_changes(1, torch_generator("gradient/diversity", 0, s)) for s in SEEDS], 1
    )
    (WORLD.identity(diversify(point, changes)) * WORLD.identity(faces)).sum().backward()
    assert point.grad is not None
    expected = (faces - 2 * 0.02 * point.grad.sign()).clamp(-1, 1)
    assert torch.equal(FGSM(WORLD.identity, 0.02)(faces, SEEDS), expected)


def test_momentum_remembers_the_directions_of_all_steps(faces: Tensor) -> None:
    """Each step goes along the sign of the sum of the normalized gradients so far."""
    attack, steps, epsilon = MIFGSM(WORLD.identity, 0.05, 3), 3, 0.05
    output, total = faces.clone(), torch.zeros_like(faces)
    for step in range(steps):
        point = output.clone().requires_grad_()
        changes = torch.cat(
            [draw_changes(1, torch_generator("gradient/diversity", step, s)) for s in SEEDS], 1
        )
        (WORLD.identity(diversify(point, changes)) * WORLD.identity(faces)).sum().backward()
        assert point.grad is not None
        total += point.grad / point.grad.abs().sum((1, 2, 3), keepdim=True)
        output = (output - 2 * epsilon / steps * total.sign()).clamp(-1, 1)
    assert torch.allclose(attack(faces, SEEDS), output, atol=1e-5)


def test_tidim_is_smoother_noise(faces: Tensor) -> None:
    def roughness(output: Tensor) -> Tensor:
        return (output - faces).diff(dim=3).abs().mean()

    plain, smooth = (
        MIFGSM(WORLD.identity, 0.05, 3, smooth)(faces, SEEDS) for smooth in (False, True)
    )
    assert roughness(smooth) < 0.95 * roughness(plain)


def test_fgsm_moves_every_pixel_that_it_sees_by_the_full_epsilon(faces: Tensor) -> None:
    """Input diversity shifts a face by up to 4 % of its side: the border is out of its sight."""
    moved = (FGSM(WORLD.identity, 0.02)(faces, SEEDS) - faces).abs()
    inside = faces.abs() < 0.9
    inside[..., :8, :] = inside[..., -8:, :] = False
    inside[..., :8] = inside[..., -8:] = False
    assert torch.allclose(moved[inside], torch.tensor(0.04), atol=1e-5)


def test_random_starts_come_from_the_seed(faces: Tensor) -> None:
    pgd = make("pgd", None)
    assert not torch.equal(pgd(faces[:1], [1]), pgd(faces[:1], [2]))


def test_epsilon_in_the_name_is_the_one_used(faces: Tensor) -> None:
    named = make("fgsm-0.03", None)(faces, SEEDS)
    assert torch.equal(named, FGSM(WORLD.identity, 0.03)(faces, SEEDS))


def test_blur_is_a_gaussian_and_keeps_flat_pictures() -> None:
    impulse = torch.full((1, 3, 65, 65), 0.0)
    impulse[..., 32, 32] = 1.0
    sigma = 4.0
    blurred = Blur(sigma / 65)(impulse, [0])[0, 0]
    x = torch.arange(65) - 32.0
    gauss = torch.exp(-(x[:, None] ** 2 + x**2) / (2 * sigma**2)) / (2 * torch.pi * sigma**2)
    assert torch.allclose(blurred[16:49, 16:49], gauss[16:49, 16:49], atol=1e-5)
    flat = torch.full((1, 3, 20, 30), -0.7)
    assert torch.allclose(Blur(0.5)(flat, [0]), flat, atol=1e-5)


def test_blur_and_pixelate_remove_fine_detail() -> None:
    noise = torch.rand(2, 3, 64, 64, generator=torch_generator("detail")) * 2 - 1
    checks = torch.ones(64, 64)
    checks[::2, 1::2] = checks[1::2, ::2] = -1.0
    for anonymizer in (make("blur", None), make("pixelate", None)):
        assert anonymizer(checks.expand(1, 3, 64, 64), [0]).abs().max() < 0.05
        assert anonymizer(noise, [0, 1]).var() < 0.02 * noise.var()


def test_pixelate_leaves_one_mean_color_a_block(faces: Tensor) -> None:
    output = Pixelate(4)(faces, SEEDS)
    for row in range(4):
        for column in range(4):
            block = (slice(None), slice(None), slice(16 * row, 16 * row + 16))
            cut = (*block, slice(16 * column, 16 * column + 16))
            mean = faces[cut].mean(dim=(2, 3), keepdim=True)
            assert torch.allclose(output[cut], mean.expand(-1, -1, 16, 16), atol=1e-5)


def test_mask_leaves_nothing_of_the_face(faces: Tensor) -> None:
    output = Mask()(faces, SEEDS)
    assert output.unique().numel() == 1


def swap_with(models: ModelPaths, max_similarity: float, tries: int) -> Swap:
    model = Deidentifier.load(models.stage_one, models.stage_two, WORLD)
    return Swap(WORLD, model, max_similarity, tries)


def test_a_swap_gives_the_donor_drawn_from_the_seed(models: ModelPaths, faces: Tensor) -> None:
    swap = swap_with(models, max_similarity=1.0, tries=8)
    donors = swap.donors(faces, SEEDS)
    assert torch.allclose(donors[:2], swap.donors(faces[2:4], SEEDS[:2]), atol=1e-5)
    assert torch.allclose(swap(faces, SEEDS), swap.model.swap(donors, faces), atol=1e-5)
    assert not torch.allclose(donors[0], donors[1], atol=0.1)


def test_donors_like_the_original_are_drawn_again(models: ModelPaths, faces: Tensor) -> None:
    first = cosines(swap_with(models, 1.0, 1).donors(faces, SEEDS), faces)
    limit = float(first.median())
    again = cosines(swap_with(models, limit, 30).donors(faces, SEEDS), faces)
    assert (again <= limit + 1e-5).all()
    assert torch.allclose(again[first < limit], first[first < limit], atol=1e-5)


def test_the_search_for_a_donor_ends_with_the_least_similar(
    models: ModelPaths, faces: Tensor
) -> None:
    few = cosines(swap_with(models, -1.0, 2).donors(faces, SEEDS), faces)
    more = cosines(swap_with(models, -1.0, 6).donors(faces, SEEDS), faces)
    assert (more <= few + 1e-6).all()
    assert (more < few - 1e-3).any()


@dataclass(frozen=True)
class Broken:
    """Gives what it was told to give."""

    output: Tensor
    name: str = "broken"
    resolution: int | None = None

    def __call__(self, faces: Tensor, seeds: Sequence[int]) -> Tensor:
        return self.output


def test_nothing_malformed_comes_out() -> None:
    faces = torch.zeros(1, 3, 8, 8)
    bad = faces.clone()
    bad[0, 1, 2, 3] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"):
        Guarded(Broken(bad), "broken")(faces, [0])
    with pytest.raises(ValueError, match="gave"):
        Guarded(Broken(torch.zeros(1, 3, 4, 4)), "broken")(faces, [0])
    assert Guarded(Broken(faces + 7.0), "broken")(faces, [0]).max() == 1.0


def test_nothing_malformed_goes_in(models: ModelPaths) -> None:
    mask, swap = make("mask", None), make("swap", models)
    with pytest.raises(FloatingPointError, match="input"):
        mask(torch.full((1, 3, 8, 8), float("inf")), [0])
    with pytest.raises(ValueError, match="2 seeds"):
        mask(torch.zeros(1, 3, 8, 8), [0, 1])
    with pytest.raises(ValueError, match="works at 64 px"):
        swap(torch.zeros(1, 3, 32, 32), [0])


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("blurr", "unknown"),
        ("blur-0.1", "unknown"),
        ("fgsm-", "ε must be"),
        ("fgsm-x", "ε must be"),
        ("pgd-0", "ε must be"),
        ("fgsm-nan", "ε must be"),
        ("swap", "needs trained models"),
        ("adversarial", "needs trained models"),
    ],
)
def test_wrong_methods_are_refused_in_one_sentence(method: str, message: str) -> None:
    with pytest.raises(DeidError, match=message) as error:
        make(method, None)
    assert "\n" not in str(error.value)


def test_adversarial_needs_stage_two(models: ModelPaths, tmp_path: Path) -> None:
    with pytest.raises(DeidError, match="stage two"):
        make("adversarial", ModelPaths(models.stage_one))
    with pytest.raises(DeidError, match="missing"):
        make("swap", ModelPaths(tmp_path / "nowhere"))


@pytest.mark.parametrize("sigma", [0.05, 0.12, 0.3])
def test_a_crop_that_is_enough_for_blur_gives_the_same_blur(sigma: float) -> None:
    blur = Blur(sigma)
    random = torch.Generator().manual_seed(3)
    small = torch.rand(1, 3, 12, 12, generator=random) * 2 - 1
    whole = interpolate(small, size=(480, 480), mode="bicubic").clamp(-1, 1)
    whole += 0.2 * torch.randn(whole.shape, generator=random)
    side = 480 // (480 // blur.enough)
    less = interpolate(
        blur(interpolate(whole, size=(side, side), mode="area"), [0]),
        size=(480, 480),
        mode="bicubic",
    )
    assert float((less - blur(whole, [0])).abs().max()) < 2 / 127.5, "two levels of 256"


@pytest.mark.parametrize("method", ["fgsm-0.05", "pgd-0.05", "mifgsm-0.05", "tidim-0.05"])
def test_noise_attacks_every_recognizer_of_the_ensemble(method: str, faces: Tensor) -> None:
    """As the adversarial mapping does, so that neither knows more than the other."""
    other, known = ToyEmbedder("another").eval(), []
    for ensemble in ({}, {"another": other}):
        attack = build(method, replace(WORLD, ensemble=ensemble), None, AnonymizeParams())
        known.append((other(attack(faces, SEEDS)) * other(faces)).sum(1).mean().item())
    assert known[1] < known[0] - 0.02


def test_adversarial_goes_no_further_than_the_perceptual_distance_asked_for(
    models: ModelPaths, faces: Tensor
) -> None:
    def distances(farthest: float | None) -> Tensor:
        settings = AnonymizeParams(adversarial_stretch=3.0, adversarial_distance=farthest)
        outputs = build("adversarial", WORLD, models, settings)(faces, SEEDS)
        return WORLD.perceptual.distance(make("reconstruction", models)(faces, SEEDS), outputs)

    free = distances(None)
    bound = float(free.median())
    held = distances(bound)
    near = free < 0.99 * bound  # measured before the picture is clamped
    assert near.any()
    assert (free > 1.01 * bound).any()
    assert torch.allclose(held[near], free[near], atol=1e-6)
    assert held.max() <= 1.02 * bound
    assert (held[~near] > 0.5 * bound).all(), "held back more than need be"
