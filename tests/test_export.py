"""`deid export --onnx`: the files compute what torch does, or there are none."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor

from deid.batch.project import bundle_at
from deid.errors import DeidError
from deid.model import Deidentifier
from deid.params import AnonymizeParams
from deid.pixels import to_tensor
from deid.registry import export
from deid.registry.choice import Chosen, named
from deid.registry.networks import networks_of
from deid.storage.staging import file_sha256
from deid.worlds import load_world
from tests.conftest import ROOT
from tests.toy_model import save_toy_model

STRETCH = 1.5
FILES = ("identity", "expression", "mapping", "adversarial_mapping", "generator")


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Chosen:
    """The mini world with random stages."""
    bundle = bundle_at(ROOT, "mini")
    paths = save_toy_model(tmp_path_factory.mktemp("stages"), load_world(bundle.world))
    assert paths.stage_two is not None
    settings = AnonymizeParams(adversarial_stretch=STRETCH)
    trained = replace(
        bundle, stage_one=paths.stage_one, stage_two=paths.stage_two, anonymize=settings
    )
    return named(trained, "local")


@pytest.fixture(scope="module")
def model(chosen: Chosen) -> Deidentifier:
    bundle = chosen.bundle
    return Deidentifier.load(bundle.stage_one, bundle.stage_two, load_world(bundle.world))


@pytest.fixture(scope="module")
def folder(chosen: Chosen, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "onnx"
    export.export_onnx(chosen, out)
    return out


@pytest.fixture(scope="module")
def faces(model: Deidentifier) -> Tensor:
    """Rendered people, not what the generator draws, by which the export held its files."""
    return to_tensor(model.world.test_faces(2, 1, 7).pixels)


@pytest.fixture
def values(model: Deidentifier, faces: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        identity, expression = model.world.identity(faces), model.expression(faces)
        w = model.latent_from(identity, expression)
    return {"faces": faces, "identity": identity, "expression": expression, "w": w}


@torch.no_grad()
def differences(model: Deidentifier, folder: Path, values: dict[str, Tensor]) -> dict[str, float]:
    """Of each file from torch."""
    found = {}
    for network in networks_of(model, STRETCH):
        wanted = network.compute(*(values[name] for name in network.inputs))
        file = folder / f"{network.name}.onnx"
        found[network.name] = export.largest_difference(file, values, wanted)
    return found


@pytest.mark.slow
def test_each_file_computes_what_torch_does(
    model: Deidentifier, folder: Path, values: dict[str, Tensor]
) -> None:
    found = differences(model, folder, values)
    assert tuple(found) == FILES
    assert max(found.values()) < 1e-3, found


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_weight_that_differs_is_noticed(
    model: Deidentifier, folder: Path, values: dict[str, Tensor], tmp_path: Path, name: str
) -> None:
    changed = onnx.load(folder / f"{name}.onnx")
    largest = max(changed.graph.initializer, key=lambda tensor: int(np.prod(tensor.dims)))
    weights = numpy_helper.to_array(largest).copy()
    weights.reshape(-1)[::10] += 0.5
    largest.CopyFrom(numpy_helper.from_array(weights, largest.name))
    for file in folder.glob("*.onnx"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    onnx.save(changed, tmp_path / f"{name}.onnx")
    noticed = {n for n, d in differences(model, tmp_path, values).items() if not d <= export.MOST}
    assert noticed == {name}


@pytest.mark.slow
def test_the_card_s_own_lines_swap_a_face_as_deid_does(
    model: Deidentifier, folder: Path, faces: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (code,) = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    lines: dict[str, Any] = {}
    exec(code, lines)
    drawn = lines["swap"](faces[:1].numpy(), faces[1:].numpy())
    wanted = model.swap(faces[:1], faces[1:]).numpy()
    assert np.abs(drawn - wanted).max() < 1e-3
    assert np.abs(drawn - faces[1:].numpy()).mean() > 0.01


@pytest.mark.slow
def test_the_description_names_shapes_hashes_content_and_terms(
    chosen: Chosen, folder: Path
) -> None:
    about = json.loads((folder / export.DESCRIPTION).read_text())
    assert about["content_sha256"] == chosen.content_sha256
    assert about["world"] == "mini"
    assert tuple(about["networks"]) == FILES
    for name, network in about["networks"].items():
        file = folder / network["file"]
        assert network["sha256"] == file_sha256(file)
        assert (network["licenses"], network["commercial"]) == (["MIT"], True)
        graph = onnx.load(file).graph
        for said, tensors in ((network["inputs"], graph.input), (network["output"], graph.output)):
            shapes = {t.name: [d.dim_value for d in t.type.tensor_type.shape.dim] for t in tensors}
            assert {key: value["shape"] for key, value in said.items()} == shapes, name


def test_a_photo_model_says_what_is_not_for_commercial_use() -> None:
    from deid.weights.catalog import needs

    stand_in: Any = type("Model", (), {"__getattr__": lambda self, name: self})()
    files = needs("photo")
    terms = {n.name: n.is_commercial(files) for n in networks_of(stand_in, 1.0)}
    assert terms == {name: name == "identity" for name in FILES}
    for network in networks_of(stand_in, 1.0)[1:]:
        assert any("non-commercial" in license for license in network.licenses(files))


def test_nothing_is_written_over(chosen: Chosen, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(DeidError, match="is there already"):
        export.export_onnx(chosen, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_without_stages_it_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    lacking = replace(bundle_at(ROOT, "mini"), stage_one=tmp_path / "none")
    with pytest.raises(DeidError, match="no trained stages of world mini; run `dvc repro`"):
        export.export_onnx(named(lacking, "local"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch, model: Deidentifier) -> None:
    """The exporter leaves out what M_adv adds."""
    right = export.to_onnx

    def wrongly(network: Any, given: Any, file: Path) -> None:
        right(replace(network, compute=lambda *inputs: inputs[0] * 1.01), given, file)

    monkeypatch.setattr(export, "to_onnx", wrongly)
    monkeypatch.setattr(export, "networks_of", lambda *_: networks_of(model, STRETCH)[3:4])


@pytest.mark.slow
def test_files_that_differ_from_torch_never_appear(
    chosen: Chosen, wrong: None, tmp_path: Path
) -> None:
    with pytest.raises(DeidError, match="adversarial_mapping: ONNX Runtime differs from torch by"):
        export.export_onnx(chosen, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
