"""How the generators behave; that they are StyleGAN1 and 2 is in test_importers."""

import pytest
import torch

from deid.nets.style import MappingNetwork
from deid.nets.stylegan1 import stylegan1
from deid.nets.stylegan2 import StyleGAN2


def small(resolution: int = 16) -> StyleGAN2:
    torch.manual_seed(0)
    channels = {4 << i: 12 - 2 * i for i in range(resolution.bit_length() - 2)}
    mapping = MappingNetwork([6, 16, 8], rate=1.0, normalize=False, skip=True)
    return StyleGAN2(resolution, channels, mapping, z_dim=6, w_dim=8)


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


def test_length_of_z_matters_only_without_normalization() -> None:
    z = torch.randn(4, 6)
    plain, normalized = (MappingNetwork([6, 8], normalize=flag) for flag in (False, True))
    assert not torch.allclose(plain(2 * z), plain(z))
    assert torch.allclose(normalized(2 * z), normalized(z), atol=1e-5)


def test_every_parameter_learns() -> None:
    net = small()
    score = net(torch.randn(4, 6)).square().sum()
    named = dict(net.named_parameters())
    gradients = torch.autograd.grad(score, list(named.values()))
    assert [n for n, g in zip(named, gradients, strict=True) if not g.abs().sum() > 0] == []


def test_every_parameter_of_stylegan1_learns() -> None:
    torch.manual_seed(0)
    net = stylegan1([8, 6, 4], [5, 7, 6], early_bias=True)
    score = net(torch.randn(4, 5)).square().sum()
    named = dict(net.named_parameters())
    gradients = torch.autograd.grad(score, list(named.values()))
    assert [n for n, g in zip(named, gradients, strict=True) if not g.abs().sum() > 0] == []
    assert net(torch.randn(2, 5)).shape == (2, 3, 16, 16)
