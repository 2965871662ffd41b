"""Importers of face networks: two formats of one network agree, widths come from shapes, and what
is not such a network is refused."""

import io
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from deid.errors import DeidError
from deid.nets.inception import fid_inception, inception_v3
from deid.nets.inception_resnet import InceptionResnetV1
from deid.nets.iresnet import IResNet
from deid.nets.mobilefacenet68 import MobileFaceNetLandmarks
from deid.nets.vggface2 import VGGFace2ResNet
from deid.weights.importers import FORMATS, build, import_content, read_checkpoint
from deid.weights.onnx_graph import read_onnx
from tests.onnx_files import exported, run_onnx

SMALL: dict[str, Any] = {"blocks": (1, 2, 1, 1), "widths": (8, 8, 16, 16), "dim": 12}


def filled(network: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights, with batch norms that do something, in eval mode."""
    generator = torch.Generator().manual_seed(seed)

    def draw(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator)

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.weight.data = 1 + 0.1 * draw(module.weight)
            module.bias.data = 0.1 * draw(module.bias)
            module.running_mean = 0.1 * draw(module.bias)
            module.running_var = 1 + 0.2 * draw(module.bias).abs()
    return network.eval()


def assert_close(found: Tensor, wanted: Tensor, relative: float = 1e-5) -> None:
    """Within a share of the largest wanted value."""
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= relative * wanted.abs().max()


# ONNX


def test_an_arcface_export_becomes_the_same_differentiable_network(tmp_path: Path) -> None:
    network = filled(IResNet(**SMALL))
    file = exported(network, (1, 3, 112, 112), tmp_path, opset_version=11)
    graph = onnx.load(file).graph
    norms = sum(node.op_type == "BatchNormalization" for node in graph.node)
    assert norms == 7  # one for each block, two at the end: the other fifteen were folded
    imported = import_content(read_onnx(file), "export")
    assert imported.notes == (
        "15 batch norms were folded in the export; here they only add the bias",
    )
    assert imported.config == SMALL
    images = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(1))
    again = build(imported)
    with torch.no_grad():
        assert_close(again(images), network(images))
        assert_close(again(images), run_onnx(file, images))
    # In double precision: a rounding that turns the sign before a PReLU turns a slope as well.
    exact = images.double().requires_grad_()
    slopes = [torch.autograd.grad(n.double()(exact).sum(), exact)[0] for n in (again, network)]
    assert_close(*slopes, relative=1e-4)


def test_an_export_without_folding_and_with_its_nodes_reordered_is_read_too(tmp_path: Path) -> None:
    network = filled(IResNet(**SMALL))
    # In this mode the exporter leaves batch norms alone.
    training = torch.onnx.TrainingMode.PRESERVE
    file = exported(network, (1, 3, 112, 112), tmp_path, training=training, opset_version=14)
    model = onnx.load(file)
    assert sum(node.op_type == "BatchNormalization" for node in model.graph.node) == 22
    shortcuts = [n for n in model.graph.node if "downsample" in n.name]
    assert shortcuts
    rest = [n for n in model.graph.node if "downsample" not in n.name]
    del model.graph.node[:]
    model.graph.node.extend([*shortcuts, *rest])
    onnx.save(model, file)
    images = torch.randn(1, 3, 112, 112)
    assert_close(build(import_content(read_onnx(file), "export"))(images), network(images))


def test_another_graph_is_refused_by_the_place_where_it_differs(tmp_path: Path) -> None:
    file = exported(filled(IResNet(**SMALL)), (1, 3, 112, 112), tmp_path, opset_version=11)
    model = onnx.load(file)
    next(n for n in model.graph.node if n.op_type == "Flatten").op_type = "Relu"
    onnx.save(model, file)
    with pytest.raises(DeidError, match=r"expected Flatten or Reshape after .*, found Relu"):
        import_content(read_onnx(file), "export")


def test_a_graph_that_runs_in_circles_ends(tmp_path: Path) -> None:
    file = exported(filled(IResNet(**SMALL)), (1, 3, 112, 112), tmp_path, opset_version=11)
    model = onnx.load(file)
    # The second block of the second stage, whose sum is now its own input.
    node = next(n for n in model.graph.node if n.name.startswith("/layer2/layer2.1/Add"))
    node.output[0] = node.input[1]
    onnx.save(model, file)
    with pytest.raises(DeidError, match="expected Flatten or Reshape"):
        import_content(read_onnx(file), "export")


def test_a_file_that_is_not_onnx_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "broken.onnx"
    for content in (b"", b"\x08\x07" + b"\xff" * 50, b"PK\x03\x04"):
        file.write_bytes(content)
        with pytest.raises(DeidError, match=r"not an ONNX file|0 inputs"):
            read_onnx(file)


def test_tensors_outside_the_onnx_file_are_refused(tmp_path: Path) -> None:
    file = exported(filled(IResNet(**SMALL)), (1, 3, 112, 112), tmp_path, opset_version=11)
    model = onnx.load(file)
    onnx.save(model, file, save_as_external_data=True, location="elsewhere", size_threshold=0)
    with pytest.raises(DeidError, match="kept in another file"):
        read_onnx(file)


def test_foamlius_two_files_are_one_network(assets: Path) -> None:
    folder = assets / "weights"
    files = [folder / f"foamliu_mobilefacenet.{suffix}" for suffix in ("pt", "onnx")]
    images = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    wanted = run_onnx(files[1], images)
    for file in files:
        network = build(read_checkpoint(file))
        assert_close(network(images), wanted, relative=1e-4)


# State dicts


def arrays(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """As cydonia's pickles have it: NumPy, and no counters."""
    return {n: v.numpy() for n, v in state.items() if not n.endswith("num_batches_tracked")}


def test_cydonias_pickle_and_a_state_dict_give_the_same_network(tmp_path: Path) -> None:
    network = filled(VGGFace2ResNet((1, 1, 1, 1), 8))
    head = {"fc.weight": torch.zeros(8631, 256), "fc.bias": torch.zeros(8631)}
    state = network.state_dict() | head
    torch.save(state, tmp_path / "a")
    (tmp_path / "b").write_bytes(pickle.dumps(arrays(state), protocol=2))
    ours, theirs = (read_checkpoint(tmp_path / name) for name in "ab")
    assert ours.config == theirs.config == {"blocks": (1, 1, 1, 1), "width": 8}
    images = torch.randn(1, 3, 64, 64)
    for imported in (ours, theirs):
        assert torch.equal(build(imported)(images), network(images))


def caffe_name(name: str) -> str:
    """Our name → Oxford's, written apart from the importer."""
    if name.startswith(("conv1.", "bn1.")):
        return name.replace("conv1.", "conv1_7x7_s2.").replace("bn1.", "conv1_7x7_s2_bn.")
    found = re.fullmatch(r"layer(\d)\.(\d)\.(conv|bn|downsample\.)(\d)\.(\w+)", name)
    if found is None:
        return name
    stage, block, kind, number, leaf = found.groups()
    if kind == "downsample.":
        layer = "1x1_proj" + ("_bn" if number == "1" else "")
    else:
        layer = {"1": "1x1_reduce", "2": "3x3", "3": "1x1_increase"}[number]
        layer += "_bn" if kind == "bn" else ""
    return f"conv{int(stage) + 1}_{int(block) + 1}_{layer}.{leaf}"


@pytest.mark.parametrize("reduced", [None, 128, 256])
@pytest.mark.parametrize("bias", [False, True])
def test_oxfords_names_and_its_reduced_variants(reduced: int | None, bias: bool) -> None:
    network = filled(VGGFace2ResNet((1, 2, 1, 1), 4, reduced, bias))
    content = {caffe_name(n): v for n, v in network.state_dict().items()}
    assert "conv3_2_1x1_increase_bn.running_var" in content
    classes = {"classifier.weight": torch.zeros(8631, reduced or 128, 1, 1)}
    again = build(import_content(content | classes, "oxford"))
    assert again.dim == (reduced or 128)
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(again(images), network(images))


def test_every_format_takes_its_own_networks_and_no_other() -> None:
    head = {"fc.weight": torch.zeros(8631, 8)}
    contents = {
        "VGGFace2 ResNet-50 (cydonia999)": VGGFace2ResNet((1,), 4).state_dict() | head,
        "iResNet (InsightFace training)": IResNet(**SMALL).state_dict(),
        "InceptionResnetV1 (facenet-pytorch)": InceptionResnetV1().state_dict(),
        "MobileFaceNet landmarks (cunjian)": {"state_dict": MobileFaceNetLandmarks().state_dict()},
        "Inception-V3 (torchvision)": inception_v3().state_dict()
        | {"fc.weight": torch.zeros(1000, 2048), "AuxLogits.fc.weight": torch.zeros(1000, 768)},
        "FID Inception (pytorch-fid)": fid_inception().state_dict()
        | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)},
    }
    for name, content in contents.items():
        matching = [known.name for known in FORMATS if known.matches(content)]
        assert matching[0] == name
        assert matching == [name] or matching[1:] == ["Inception-V3 (torchvision)"]
        import_content(content, name)


def test_an_imagenet_resnet_is_not_taken_for_a_recognizer() -> None:
    state = VGGFace2ResNet((3, 4, 6, 3), 4).state_dict() | {"fc.weight": torch.zeros(1000, 128)}
    with pytest.raises(DeidError, match="no known checkpoint"):
        import_content(state, "resnet50.pth")


def test_a_missing_a_misshapen_and_a_foreign_tensor_are_named() -> None:
    state = InceptionResnetV1().state_dict()
    missing = {n: v for n, v in state.items() if n != "mixed_6a.branch0.conv.weight"}
    with pytest.raises(DeidError, match=r"facenet.*missing: 'mixed_6a\.branch0\.conv\.weight'"):
        import_content(missing, "facenet.pt")
    with pytest.raises(DeidError, match=r"conv2d_1a\.conv\.weight"):
        import_content(state | {"conv2d_1a.conv.weight": torch.zeros(32, 1, 3, 3)}, "facenet.pt")
    with pytest.raises(DeidError, match="se_module"):
        import_content(state | {"se_module.weight": torch.zeros(3)}, "facenet.pt")
    points = MobileFaceNetLandmarks(98).state_dict()
    with pytest.raises(DeidError, match="196 outputs, not 136"):
        import_content(points, "wflw.pth")


def test_names_alone_cannot_ask_for_a_huge_network() -> None:
    state = IResNet(**SMALL).state_dict() | {"layer2.999999999.bn1.weight": torch.zeros(8)}
    with pytest.raises(DeidError, match="blocks of layer2 are not numbered without a gap"):
        import_content(state, "backbone.pth")


def test_data_parallel_names_and_storages_are_taken_apart() -> None:
    state = MobileFaceNetLandmarks().state_dict()
    wrapped = {"state_dict": {f"module.{n}": v for n, v in state.items()}, "epoch": 7}
    buffer = io.BytesIO()
    torch.save(wrapped, buffer)
    buffer.seek(0)
    imported = import_content(torch.load(buffer, weights_only=True), "landmarks")
    for name, value in imported.state.items():
        assert value.untyped_storage().nbytes() == value.nbytes, name
        assert torch.equal(value, state[name]), name


def test_small_files_ask_for_no_memory_and_nonsense_is_refused(tmp_path: Path) -> None:
    state = InceptionResnetV1().state_dict()
    name = "last_linear.weight"
    for value, said in (
        (torch.empty(1 << 35, 0), "empty"),
        (torch.zeros(()).expand(1 << 35, 1792), "far more than the numbers"),
        (state[name].to(torch.int8), "floating-point"),
        (state[name].to(torch.complex64), "floating-point"),
    ):
        with pytest.raises(DeidError, match=said):
            import_content(state | {name: value}, "facenet.pt")
    with pytest.raises(DeidError, match="two tensors"):
        import_content(state | {f"module.{name}": state[name]}, "facenet.pt")
    variance = "conv2d_1a.bn.running_var"
    with pytest.raises(DeidError, match="negative variances"):
        import_content(state | {variance: -state[variance]}, "facenet.pt")
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(DeidError, match="not a file"):
        read_checkpoint(tmp_path / "pipe.pt")
