"""Each loss against its formula, written another way."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deid import losses
from deid.nets.mappers import clip_delta
from deid.seeds import torch_generator


def randn(*shape: int, name: str = "test") -> Tensor:
    return torch.randn(shape, generator=torch_generator(name))


def pictures(name: str = "pictures", count: int = 2, side: int = 64) -> Tensor:
    coarse = randn(count, 3, 8, 8, name=name)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
    return (0.4 * smooth).clamp(-1.0, 1.0)


def unit(*shape: int, name: str) -> Tensor:
    return torch.nn.functional.normalize(randn(*shape, name=name), dim=1)


def test_equation_2_is_the_cross_entropy_of_telling_real_from_mapped() -> None:
    real, mapped = randn(7, name="real"), randn(7, name="mapped")
    p_real, p_mapped = 1 / (1 + np.exp(-real.numpy())), 1 / (1 + np.exp(-mapped.numpy()))
    wanted = -np.log(p_real).mean() - np.log(1 - p_mapped).mean()
    assert losses.discriminator_loss(real, mapped).item() == pytest.approx(wanted, rel=1e-5)


def test_r1_is_half_the_squared_gradient_at_real_w() -> None:
    matrix, w = randn(5, 5, name="matrix"), randn(3, 5, name="w")
    gradient = w @ (matrix + matrix.T)
    penalty = losses.r1_penalty(lambda x: ((x @ matrix) * x).sum(1), w)
    assert penalty.item() == pytest.approx(0.5 * (gradient**2).sum(1).mean().item(), rel=1e-5)


def test_r1_trains_the_discriminator() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    losses.r1_penalty(net, randn(3, 5)).backward()
    gradient = net[0].weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_equation_3_is_minus_log_probability_and_does_not_saturate() -> None:
    logits = torch.tensor([-30.0, 0.0, 2.0], requires_grad=True)
    loss = losses.mapping_adversarial_loss(logits)
    wanted = (30.0 + math.log(2.0) + math.log1p(math.exp(-2.0))) / 3
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0].item() == pytest.approx(-1 / 3, rel=1e-4)


def test_equations_4_and_12_weigh_their_terms() -> None:
    a, b, c = (torch.tensor(x) for x in (2.0, 3.0, 5.0))
    assert losses.non_adversarial_loss((a, b, c), (1.0, 10.0, 100.0)).item() == 532.0
    assert losses.adversarial_mapping_loss((a, b), (1.0, 10.0)).item() == 32.0


def test_equation_5_does_not_depend_on_the_length_of_the_code() -> None:
    for dim in (64, 512):
        a, b = unit(200, dim, name="a"), unit(200, dim, name="b")
        wanted = np.abs(a.numpy() - b.numpy()).mean() * math.sqrt(dim)
        assert losses.identity_loss(a, b).item() == pytest.approx(wanted, rel=1e-5)
        assert wanted == pytest.approx(2 / math.sqrt(math.pi), rel=0.03)  # strangers
        assert losses.identity_loss(a, a).item() == 0.0


@pytest.mark.parametrize("equation", [losses.landmark_loss, losses.visual_identity_loss])
def test_equations_6_and_11_see_the_inner_face_and_no_jaw(equation) -> None:  # type: ignore[no-untyped-def]
    points = randn(2, 68, 2) * 10 + 32
    jaw, inner = points.clone(), points.clone()
    jaw[:, :17] += 5.0
    inner[:, 30, 0] += 3.0
    inner[:, 30, 1] += 4.0
    assert equation(points, jaw, 64).item() == 0.0
    wanted = 25.0 / 51 * (100 / 64) ** 2
    assert equation(points, inner, 64).item() == pytest.approx(wanted, rel=1e-4)


def test_equation_6_does_not_depend_on_the_resolution() -> None:
    a, b = randn(2, 68, 2, name="a"), randn(2, 68, 2, name="b")
    small, large = losses.landmark_loss(a, b, 64), losses.landmark_loss(4 * a, 4 * b, 256)
    assert small.item() == pytest.approx(large.item(), rel=1e-5)


def test_the_expression_term_is_the_mean_squared_difference_of_features() -> None:
    a, b = randn(3, 6, name="a"), randn(3, 6, name="b")
    wanted = np.square(a.numpy() - b.numpy()).mean()
    assert losses.expression_loss(a, b).item() == pytest.approx(wanted, rel=1e-5)


def test_contours_are_compared_as_landmarks_are_but_all_of_them() -> None:
    a, b = randn(2, 71, 2, name="a"), randn(2, 71, 2, name="b")
    wanted = np.square((a.numpy() - b.numpy()) * 100 / 64).sum(2).mean()
    assert losses.contour_loss(a, b, 64).item() == pytest.approx(wanted, rel=1e-5)
    large = losses.contour_loss(4 * a, 4 * b, 256)
    assert large.item() == pytest.approx(wanted, rel=1e-5)


def test_openings_are_compared_in_spreads() -> None:
    a, b = randn(2, 12, name="a"), randn(2, 12, name="b")
    wanted = np.square(a.numpy() - b.numpy()).mean()
    assert losses.opening_loss(a, b).item() == pytest.approx(wanted, rel=1e-5)


def test_equation_7_counts_only_where_both_faces_are_one() -> None:
    a, b = pictures("a"), pictures("b")
    assert losses.reconstruction_loss(a, b, 0.84, same=False).item() == 0.0
    same = losses.reconstruction_loss(a, b, 0.84, same=True)
    assert same.item() == losses.mix_loss(a, b, 0.84).item() > 0.0


def test_equation_8_mixes_structure_and_l1() -> None:
    a, b = pictures("a"), pictures("b")
    l1, structure = (a - b).abs().mean().item(), 1 - losses.ms_ssim(a, b).mean().item()
    assert losses.mix_loss(a, b, 0.0).item() == pytest.approx(l1, rel=1e-5)
    assert losses.mix_loss(a, b, 1.0).item() == pytest.approx(structure, rel=1e-5)
    wanted = 0.84 * structure + 0.16 * l1
    assert losses.mix_loss(a, b, 0.84).item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(("side", "scales"), [(64, 3), (256, 5), (8, 1)])
def test_ms_ssim_uses_the_scales_that_hold_a_window(side: int, scales: int) -> None:
    assert losses.ms_ssim_scales(side) == scales


@pytest.mark.parametrize("side", [64, 256])
def test_ms_ssim_is_the_product_of_torchmetrics_own_scales(side: int) -> None:
    """Its MS-SSIM as a whole differs: it pads the coarsest scale by reflection."""
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    a = pictures("a", side=side)
    b = (a + 0.2 * pictures("b", side=side)).clamp(-1.0, 1.0)
    weights = np.array(losses.MS_SSIM_WEIGHTS[: losses.ms_ssim_scales(side)])
    wanted: Tensor = torch.ones(len(a))
    x, y = a, b
    for left, weight in zip(reversed(range(len(weights))), weights / weights.sum(), strict=True):
        settings = {"data_range": 2.0, "reduction": "none"}
        full = ssim(x, y, return_full_image=True, **settings)[1][..., 5:-5, 5:-5].mean((1, 2, 3))
        contrast = ssim(x, y, return_contrast_sensitivity=True, **settings)[1]
        wanted = wanted * (contrast if left else full) ** weight
        x, y = torch.nn.functional.avg_pool2d(x, 2), torch.nn.functional.avg_pool2d(y, 2)
    assert losses.ms_ssim(a, b).tolist() == pytest.approx(wanted.tolist(), abs=2e-4)


def test_ms_ssim_has_a_finite_gradient_even_for_opposite_pictures() -> None:
    a = pictures("a")
    b = (-a).requires_grad_()
    losses.mix_loss(a, b, 0.84).backward()
    assert b.grad is not None
    assert torch.isfinite(b.grad).all()
    assert b.grad.abs().sum() > 0


def test_equation_9_is_the_cosine_of_the_codes() -> None:
    a, b = randn(6, 9, name="a"), randn(6, 9, name="b")
    wanted = [
        x @ y / np.linalg.norm(x) / np.linalg.norm(y)
        for x, y in zip(a.numpy(), b.numpy(), strict=False)
    ]
    assert losses.model_identity_loss(a, b).item() == pytest.approx(np.mean(wanted), rel=1e-4)
    assert losses.model_identity_loss(a, 3 * a).item() == pytest.approx(1.0, rel=1e-5)
    with_floor = np.maximum(wanted, 0.1).mean()
    assert losses.model_identity_loss(a, b, 0.1).item() == pytest.approx(with_floor, rel=1e-4)


@settings(max_examples=50)
@given(
    offsets=st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=8),
    delta=st.floats(0.01, 3.0),
)
def test_equation_10_keeps_w_adv_within_delta_and_leaves_the_rest(
    offsets: list[float], delta: float
) -> None:
    offset = torch.tensor([offsets])
    w = randn(*offset.shape)
    clipped = clip_delta(w + offset, w, delta) - w
    wanted = np.clip(np.array([offsets]), -delta, delta)
    assert clipped.numpy() == pytest.approx(wanted, abs=1e-5)


def test_equation_10_lets_a_clipped_component_come_back_but_not_go_on() -> None:
    w = torch.zeros(1, 4)
    w_adv = torch.tensor([[2.0, 2.0, -2.0, 0.5]], requires_grad=True)
    # A descent step moves against the gradient: 1st and 3rd inwards, 2nd further out.
    (clip_delta(w_adv, w, 1.0) * torch.tensor([[1.0, -1.0, -1.0, 1.0]])).sum().backward()
    assert w_adv.grad is not None
    assert w_adv.grad.tolist() == [[1.0, 0.0, -1.0, 1.0]]


def test_looks_are_compared_in_steps_that_one_sees() -> None:
    older_and_paler = torch.tensor([[1.0, 0, 0, 0, 0], [0, 0, 2.0, 0, 0]])
    assert losses.looks_loss(torch.zeros(2, 5), older_and_paler).item() == 2.5
