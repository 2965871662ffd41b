"""The generator is StyleGAN2: it agrees with an independent implementation, and behaves."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from deid.nets.stylegan2 import MappingNetwork, StyleGAN2, from_rosinality

FIXTURE = "fixtures/rosinality_stylegan2_small64"


def small(resolution: int = 16) -> StyleGAN2:
    torch.manual_seed(0)
    channels = {4 << i: 12 - 2 * i for i in range(resolution.bit_length() - 2)}
    mapping = MappingNetwork([6, 16, 8], rate=1.0, normalise=False, skip=True)
    return StyleGAN2(resolution, channels, mapping, z_dim=6, w_dim=8)


@pytest.fixture(scope="module")
def reference(assets: Path) -> tuple[StyleGAN2, dict[str, Tensor]]:
    """rosinality's checkpoint in our network, and what rosinality's own code made of it."""
    state = torch.load(assets / FIXTURE / "ckpt.pt", weights_only=True)["g_ema"]
    with np.load(assets / FIXTURE / "io.npz") as arrays:
        return from_rosinality(state), {name: torch.tensor(arrays[name]) for name in arrays}


def error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.detach() - theirs).abs().max() / theirs.std())


def test_mapping_agrees_with_rosinality(
    reference: tuple[StyleGAN2, dict[str, Tensor]],
) -> None:
    net, io = reference
    assert error(net.mapping(io["z"]), io["w"]) < 1e-4


def test_pictures_agree_with_rosinality(
    reference: tuple[StyleGAN2, dict[str, Tensor]],
) -> None:
    net, io = reference
    assert error(net.synthesis(io["w"]), io["img_const"]) < 1e-4
    assert error(net.synthesis(io["wplus"]), io["img_wplus_const"]) < 1e-4


def test_gradient_to_w_plus_agrees_with_rosinality(
    reference: tuple[StyleGAN2, dict[str, Tensor]],
) -> None:
    net, io = reference
    wplus = io["wplus"].clone().requires_grad_()
    image = net.synthesis(wplus)
    projection = np.random.RandomState(3).standard_normal(image.shape) / image[0].numel()
    score = (image * torch.tensor(projection, dtype=torch.float32)).sum()
    assert error(torch.autograd.grad(score, wplus)[0], io["grad_wplus"]) < 1e-3


def test_one_w_equals_the_same_w_at_every_layer() -> None:
    net = small()
    w = net.mapping(torch.randn(3, 6))
    assert torch.equal(net.synthesis(w), net.synthesis(w[:, None].repeat(1, net.num_ws, 1)))


def test_each_layer_uses_its_own_w() -> None:
    net = small()
    wplus = torch.randn(2, net.num_ws, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(net.synthesis(wplus).square().sum(), wplus)
    assert (gradient.abs().sum((0, 2)) > 0).all()


@pytest.mark.parametrize("resolution", [4, 8, 32, 64])
def test_any_resolution(resolution: int) -> None:
    net = small(resolution)
    assert net(torch.randn(2, 6)).shape == (2, 3, resolution, resolution)
    assert net.num_ws == 2 * (resolution.bit_length() - 2)


def test_channels_must_fit_the_resolution() -> None:
    with pytest.raises(ValueError, match="channels"):
        StyleGAN2(16, {4: 8, 8: 8}, MappingNetwork([4, 4]), z_dim=4, w_dim=4)


def test_a_face_does_not_depend_on_its_batch() -> None:
    net = small()
    z = torch.randn(5, 6)
    together = net(z)
    assert torch.equal(together, net(z))
    assert torch.allclose(together[2:3], net(z[2:3]), atol=1e-5)


def test_length_of_z_matters_only_without_normalisation() -> None:
    z = torch.randn(4, 6)
    plain, normalised = (MappingNetwork([6, 8], normalise=flag) for flag in (False, True))
    assert not torch.allclose(plain(2 * z), plain(z))
    assert torch.allclose(normalised(2 * z), normalised(z), atol=1e-5)


def test_every_parameter_learns() -> None:
    net = small()
    score = net(torch.randn(4, 6)).square().sum()
    named = dict(net.named_parameters())
    gradients = torch.autograd.grad(score, list(named.values()))
    assert [n for n, g in zip(named, gradients, strict=True) if not g.abs().sum() > 0] == []
