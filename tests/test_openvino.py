"""OpenVINO's files are read as data, and MobileStyleGAN draws from them what the runtime draws."""

from pathlib import Path

import numpy as np
import pytest
import torch

from deid.errors import DeidError
from deid.nets.mobile_stylegan import (
    MobileStyleGAN,
    MobileSynthesis,
    StyledConvolution,
    StyleMapping,
    inverse_haar,
)
from deid.weights.importers import build, read_checkpoint
from deid.weights.openvino import is_openvino, read_openvino
from tests.openvino_files import small_generator, write_mapping, write_synthesis

RECORDED = Path(__file__).parent / "data" / "mobile_stylegan.npz"
"""What OpenVINO 2026.4.1 makes of the small network's files on a CPU, float32."""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    generator = small_generator()
    mapping = write_mapping(generator.mapping_network, tmp_path)
    return mapping, write_synthesis(generator.synthesis_network, tmp_path)


def test_what_was_written_is_read_back(files: tuple[Path, Path]) -> None:
    generator = small_generator()
    for network, path in zip(
        (generator.mapping_network, generator.synthesis_network), files, strict=True
    ):
        built, wanted = build(read_checkpoint(path)), network.state_dict()
        assert built.state_dict().keys() == wanted.keys()
        for name, tensor in built.state_dict().items():
            torch.testing.assert_close(tensor, wanted[name], atol=1e-6, rtol=1e-6)


def test_draws_what_the_runtime_draws(files: tuple[Path, Path]) -> None:
    recorded = {name: torch.from_numpy(array) for name, array in np.load(RECORDED).items()}
    mapping, synthesis = (build(read_checkpoint(path)) for path in files)
    assert isinstance(mapping, StyleMapping)
    assert isinstance(synthesis, MobileSynthesis)
    generator = MobileStyleGAN(mapping, synthesis)
    with torch.inference_mode():
        w = generator.mapping(recorded["z"])
        torch.testing.assert_close(w, recorded["w"], atol=1e-5, rtol=0.0)
        pictures = generator.synthesis(recorded["w"][:1])
    torch.testing.assert_close(pictures, recorded["pictures"], atol=1e-4, rtol=0.0)


def test_inverse_haar_keeps_length_and_puts_a_mean_into_four_pixels() -> None:
    x = torch.randn(2, 12, 4, 4)
    assert inverse_haar(x).square().sum().item() == pytest.approx(x.square().sum().item(), rel=1e-5)
    mean = torch.zeros(1, 8, 1, 1)
    mean[0, 1] = 2.0  # the mean of the second of two channels
    drawn = inverse_haar(mean)
    assert drawn[0, 1].tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert not drawn[0, 0].any()


def test_a_picture_drawn_in_bands_is_that_drawn_as_a_whole() -> None:
    generator = MobileStyleGAN(StyleMapping(8, 2), MobileSynthesis((8,) * 6, 8))
    for module in generator.modules():
        if isinstance(module, StyledConvolution):
            module.noise.normal_()
    for side in generator.resolutions[-2:]:
        w = torch.randn(2, 8)
        with torch.no_grad():
            banded = generator.synthesis(w, side)
        whole = generator.synthesis(w, side)
        assert whole.requires_grad
        torch.testing.assert_close(banded, whole.detach(), atol=1e-5, rtol=0.0)


def test_one_w_at_every_row_is_that_w() -> None:
    generator = small_generator()
    w = torch.randn(2, 8)
    rows = w[:, None].repeat(1, generator.num_ws, 1)
    for side in generator.resolutions:
        assert generator.synthesis(w, side).shape == (2, 3, side, side)
        torch.testing.assert_close(generator.synthesis(rows, side), generator.synthesis(w, side))


def test_each_row_of_w_plus_matters_once() -> None:
    generator = small_generator()
    rows = torch.randn(1, generator.num_ws, 8, requires_grad=True)
    generator.synthesis(rows).square().sum().backward()
    assert rows.grad is not None
    assert bool((rows.grad.abs().sum(2) > 0).all())


def test_another_resolution_is_refused() -> None:
    with pytest.raises(ValueError, match="resolution 100"):
        MobileStyleGAN(StyleMapping(8, 1), MobileSynthesis((8,) * 4, 8), resolution=100)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"?>", b'?><!DOCTYPE net [<!ENTITY a "aaaa">]>'),
        (b'size="32"', b'size="4000000000"'),
        (b'offset="0"', b'offset="-4"'),
        (b'offset="0"', b'offset="99999999"'),
        (b'shape="8, 8"', b'shape="8, 8, 1000000000"'),
        (b'element_type="f32" shape="8, 8"', b'element_type="object" shape="8, 8"'),
        (b"<edge ", b"<age "),
        (b"</net>", b""),
    ],
)
def test_a_hostile_file_is_refused(files: tuple[Path, Path], old: bytes, new: bytes) -> None:
    content = files[0].read_bytes()
    assert old in content
    files[0].write_bytes(content.replace(old, new))
    with pytest.raises(DeidError):
        read_openvino(files[0])


def test_numbers_that_are_missing_are_named(files: tuple[Path, Path]) -> None:
    files[0].with_suffix(".bin").unlink()
    with pytest.raises(DeidError, match=r"MappingNetwork\.bin"):
        read_openvino(files[0])


def test_only_its_own_kind_is_taken_for_one(files: tuple[Path, Path]) -> None:
    assert is_openvino(files[0].read_bytes()[:512])
    assert not is_openvino(b'<?xml version="1.0"?><svg></svg>')
    assert not is_openvino(b"PK\x03\x04")
