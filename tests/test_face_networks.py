"""The photo world's face networks: their files are read safely and give the originals' outputs."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deid.errors import DeidError
from deid.nets.dlib_resnet import DlibResNet
from deid.nets.mobile_stylegan import MobileSynthesis
from deid.nets.tensorflow import SameConv2d
from deid.pixels import Pixels, to_tensor
from deid.weights.catalog import find, with_parts
from deid.weights.dlib import read_dlib
from deid.weights.importers import build, import_content, read_checkpoint
from deid.weights.store import default_store, verified
from deid.weights.tfjs import is_tfjs, read_tfjs
from deid.worlds.public.conventions import CONVENTIONS

RECORDED = Path(__file__).parent / "data" / "face_networks.npz"
"""What TensorFlow.js 4.22, face-api 1.7.15 and dlib 20.0.1 make of `smooth_picture`, on a CPU; of
MobileFaceNet_TF what LiteRT 2.3.0 makes of its original file, a unit vector."""

FFHQ = Path(__file__).parent / "data" / "mobile_stylegan_ffhq.npz"
"""What OpenVINO 2026.4.1 makes of the real generator: w, 40 × 40 pixels about an eye, the whole
picture reduced to 16 × 16."""

FILES = {
    "hse_face": "hse-face",
    "mobile_face": "mobile-face",
    "mobilefacenet_tf": "mobilefacenet-tf",
    "face_mesh": "face-mesh",
    "face_landmark68": "face-api-landmarks68",
    "dlib_resnet": "dlib-resnet",
}
"""Network → its file in the catalog."""


def smooth_picture(side: int) -> Pixels:
    """Random colors at 10 × 10 places, interpolated, whole numbers: alike for every runtime."""
    random = np.random.default_rng(20)
    corners = random.integers(0, 256, (10, 10, 3)).astype(np.float32)
    places = np.linspace(0, 9, side)
    low = np.clip(places.astype(int), 0, 8)
    part = (places - low)[:, None, None]
    rows = corners[low] * (1 - part) + corners[low + 1] * part
    part = (places - low)[None, :, None]
    smooth = rows[:, low] * (1 - part) + rows[:, low + 1] * part
    return np.round(smooth).astype(np.uint8)


def network_input(name: str) -> Tensor:
    """The smooth picture as the network reads it, without any crop."""
    convention = CONVENTIONS[name]
    pictures = to_tensor(smooth_picture(convention.size))
    if convention.bgr:
        pictures = pictures.flip(1)
    mean, deviation = (
        torch.tensor(v)[:, None, None] for v in (convention.mean, convention.deviation)
    )
    return ((pictures + 1) * 127.5 - mean) / deviation


def public_file(name: str) -> Path:
    """A file of the store; the test is skipped where it is not here."""
    store = default_store()
    entries = with_parts([name])
    if not all(store.path(entry).is_file() for entry in entries):
        pytest.skip(f"{find(name).file} is not in the store; `deid weights fetch {name}` brings it")
    first, *_ = [verified(entry, store) for entry in entries]
    return first


@pytest.mark.parametrize("network", FILES)
def test_gives_what_the_original_runtime_gives(network: str) -> None:
    built = build(read_checkpoint(public_file(FILES[network])))
    with torch.inference_mode():
        given = built(network_input(network))[0]
    wanted = torch.from_numpy(np.load(RECORDED)[network])
    assert given.shape == wanted.shape
    if network == "mobilefacenet_tf":  # whose original gives a unit vector
        given = torch.nn.functional.normalize(given, dim=0)
    scale = wanted.abs().max().item()
    assert (given - wanted).abs().max().item() < 1e-5 * scale


def test_age_and_sex_are_those_of_the_original() -> None:
    built: Any = build(read_checkpoint(public_file("hse-face")))
    recorded = np.load(RECORDED)
    with torch.inference_mode():
        features = built(network_input("hse_face"))
        assert built.years(features).item() == pytest.approx(recorded["hse_face_years"], abs=1e-3)
        assert built.male(features).item() == pytest.approx(recorded["hse_face_male"][0], abs=1e-4)


def test_the_generator_draws_what_the_runtime_draws() -> None:
    recorded = {name: torch.from_numpy(array) for name, array in np.load(FFHQ).items()}
    mapping, synthesis = (
        build(read_checkpoint(public_file(f"mobile-stylegan-{part}")))
        for part in ("mapping", "synthesis")
    )
    assert isinstance(synthesis, MobileSynthesis)
    with torch.inference_mode():
        torch.testing.assert_close(mapping(recorded["z"]), recorded["w"], atol=1e-4, rtol=0.0)
        picture = synthesis(recorded["w"][:, None].expand(-1, synthesis.num_ws, -1))
    crop = picture[:, :, 480:520, 340:380]
    torch.testing.assert_close(crop, recorded["crop"], atol=1e-4, rtol=0.0)
    reduced = torch.nn.functional.avg_pool2d(picture, 64)
    torch.testing.assert_close(reduced, recorded["reduced"], atol=1e-4, rtol=0.0)


@pytest.mark.parametrize(("side", "stride"), [(7, 2), (8, 2), (9, 3), (8, 1)])
def test_same_padding_puts_the_odd_pixel_last(side: int, stride: int) -> None:
    layer = SameConv2d(1, 1, 3, stride, bias=False)
    torch.nn.init.ones_(layer.weight)
    x = torch.rand(1, 1, side, side)
    given = layer(x)
    assert given.shape[-1] == -(-side // stride)  # TensorFlow's rule
    before = max((given.shape[-1] - 1) * stride + 3 - side, 0) // 2
    assert given[0, 0, 0, 0].item() == pytest.approx(
        x[0, 0, : 3 - before, : 3 - before].sum().item()
    )


def manifest(folder: Path, weights: list[dict[str, Any]], numbers: bytes) -> Path:
    """A TensorFlow.js manifest and its numbers."""
    path = folder / "model.json"
    path.write_text(json.dumps([{"weights": weights, "paths": ["model.bin"]}]))
    path.with_name("model.bin").write_bytes(numbers)
    return path


def test_tfjs_numbers_are_restored_from_every_type(tmp_path: Path) -> None:
    quantized = {"dtype": "uint8", "scale": 0.5, "min": -1.0}
    weights = [
        {"name": "whole", "shape": [2], "dtype": "float32"},
        {"name": "half", "shape": [2], "dtype": "float32", "quantization": {"dtype": "float16"}},
        {"name": "few", "shape": [3], "dtype": "float32", "quantization": quantized},
        {"name": "count", "shape": [], "dtype": "int32"},
    ]
    numbers = np.array([1.5, -2.0], "<f4").tobytes() + np.array([0.5, 3.0], "<f2").tobytes()
    numbers += bytes([0, 2, 255]) + np.array(7, "<i4").tobytes()
    tensors = read_tfjs(manifest(tmp_path, weights, numbers))
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        "whole": [1.5, -2.0],
        "half": [0.5, 3.0],
        "few": [-1.0, 0.0, 126.5],
        "count": 7,
    }


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    "change",
    [
        lambda group: group["weights"][0].update(shape=[10**12]),
        lambda group: group["weights"][0].update(shape=[-2]),
        lambda group: group["weights"][0].update(dtype="object"),
        lambda group: group["weights"].append(group["weights"][0]),
        lambda group: group["weights"].clear(),
        lambda group: group.update(paths=["../secret.bin"]),
        lambda group: group.update(paths=["/etc/hostname"]),
        lambda group: group.update(paths=["absent.bin"]),
        lambda group: group.pop("paths"),
        lambda group: group.update(weights={"name": "x"}),
    ],
)
def test_a_hostile_manifest_is_refused(tmp_path: Path, change: Change) -> None:
    path = manifest(tmp_path, [{"name": "x", "shape": [2], "dtype": "float32"}], bytes(8))
    assert is_tfjs(path.read_bytes())
    groups = json.loads(path.read_text())
    change(groups[0])
    path.write_text(json.dumps(groups))
    with pytest.raises(DeidError):
        read_tfjs(path)


def packed(value: int) -> bytes:
    """An integer as dlib packs it."""
    size = max((value.bit_length() + 7) // 8, 1)
    return bytes([size]) + value.to_bytes(size, "little")


def dlib_file(path: Path, tensors: list[Tensor]) -> Path:
    """A dlib file with some settings before each tensor."""
    data = b"\x01\x01\x01\x0dloss_metric_2"
    for tensor in tensors:
        data += b"\x01\x05con_5" + packed(2)
        data += b"".join(map(packed, (len(tensor), 1, 1, 1)))
        data += struct.pack(f"<{len(tensor)}f", *tensor.tolist())
    path.write_bytes(data + b"\x01\x01")
    return path


def test_dlib_tensors_are_found_in_order(tmp_path: Path) -> None:
    wanted = [torch.rand(count) for count in (70, 300, 64)]
    found = read_dlib(dlib_file(tmp_path / "net.dat", wanted))["dlib"]
    assert [tensor.tolist() for tensor in found] == [tensor.tolist() for tensor in wanted]


def test_a_dlib_network_becomes_ours() -> None:
    network = DlibResNet()
    tensors = []
    for module in [network.stem, *(m for b in network.blocks for m in (b.first, b.second))]:
        convolution, affine = module.convolution, module.affine
        tensors.append(torch.cat([convolution.weight.flatten(), convolution.bias]).detach())
        tensors.append(torch.cat([affine.scale, affine.shift]).detach())
    tensors.append(network.project.weight.T.flatten().detach())
    built = build(import_content({"dlib": tensors}, "net.dat"))
    x = torch.rand(1, 3, 150, 150)
    with torch.inference_mode():
        torch.testing.assert_close(built(x), network(x))


@pytest.mark.parametrize("data", [b"", b"\x01\x02", b"\x01\x02" + b"\xff" * 40, b"\x01\x02" * 60])
def test_what_is_no_dlib_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "net.dat"
    path.write_bytes(data)
    with pytest.raises(DeidError):
        read_dlib(path)


def test_a_dlib_tensor_cannot_claim_more_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "net.dat"
    path.write_bytes(b"\x01\x02" + b"".join(map(packed, (1 << 40, 1 << 20, 9, 9))) + bytes(100))
    with pytest.raises(DeidError):
        read_dlib(path)
