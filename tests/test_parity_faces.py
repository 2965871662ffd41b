"""Public face networks against the outputs of their reference implementations.

The fixtures hold those outputs for networks whose every tensor is filled by a recipe; see
`fixtures/README.json` of the test assets.
"""

import importlib.util
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deid.weights.convert import convert
from deid.weights.importers import build, import_content, read_checkpoint
from deid.worlds.public.conventions import CONVENTIONS
from deid.worlds.public.faces import Trunk
from tests.onnx_files import exported

RELATIVE = 1e-4


class Fixture:
    """One folder of `fixtures`: the state in the file's layout, inputs and wanted outputs."""

    def __init__(self, folder: Path) -> None:
        rows = json.loads((folder / "inventory.json").read_text())
        self.outputs = dict(np.load(folder / "io.npz"))
        self.rows = [(name, tuple(shape), kind) for name, shape, kind in rows]
        self.fill = _recipe(folder.parent / "recipe.py")

    def arrays(self, *without: str) -> dict[str, Any]:
        """Every tensor of the recipe as NumPy has it, less constants and `without`."""
        wanted = [row for row in self.rows if row[2] not in ("const", "int")]
        return {
            name: self.fill(name, shape, kind)
            for name, shape, kind in wanted
            if not name.startswith(without or ("\0",))
        }

    def state(self, *without: str) -> dict[str, Tensor]:
        """The same as tensors."""
        return {name: torch.from_numpy(value) for name, value in self.arrays(*without).items()}

    def network(self, state: Mapping[str, Any] | None = None) -> nn.Module:
        """Ours, by the importer."""
        return build(import_content(self.state() if state is None else state, "fixture"))

    def agrees(self, name: str, found: Tensor, relative: float = RELATIVE) -> None:
        """`found` is the wanted output within a share of that output's largest value."""
        wanted = torch.from_numpy(self.outputs[name])
        assert found.shape == wanted.shape, name
        error = (found.detach() - wanted).abs().max() / wanted.abs().max()
        assert error <= relative, f"{name}: {error:.2e}"


@cache
def _recipe(path: Path) -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location("recipe", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    fill: Callable[..., Any] = module.fill
    return fill


@pytest.fixture
def fixture(assets: Path) -> Callable[[str], Fixture]:
    """A fixture by its folder's name."""
    if not (assets / "fixtures").is_dir():
        pytest.skip(f"no reference outputs in {assets / 'fixtures'}")
    return lambda name: Fixture(assets / "fixtures" / name)


Load = Callable[[str], Fixture]


def noise(shape: tuple[int, ...], seed: int = 1, scale: float = 1.0) -> Tensor:
    """The fixtures' inputs."""
    drawn = np.random.RandomState(seed).standard_normal(shape).astype(np.float32)
    return torch.from_numpy(drawn * np.float32(scale))


def gradient(output: Tensor, weights: Tensor, image: Tensor) -> Tensor:
    """Of the weighted sum of the outputs with respect to the image."""
    (found,) = torch.autograd.grad((output * weights).sum(), image)
    return found


def test_vggface2_features_and_classes(fixture: Load) -> None:
    known = fixture("vggface2_resnet50_cydonia_recipe")
    state = known.state()
    image = noise((2, 3, 224, 224)).requires_grad_()
    features = known.network(state)(image)
    known.agrees("feat", features[:, :, None, None])
    known.agrees("logits", features @ state["fc.weight"][:64].T + state["fc.bias"][:64])
    slope = gradient(features, torch.ones_like(features), image)
    assert slope.isfinite().all()
    assert slope.abs().amax((1, 2, 3)).min() > 0


def test_arcface_embedding_and_gradient_and_those_of_its_export(
    fixture: Load, tmp_path: Path
) -> None:
    known = fixture("arcface_iresnet50_recipe")
    image = noise((2, 3, 112, 112), scale=0.5).requires_grad_()
    network = known.network()
    embedding = network(image)
    file = exported(network, (1, 3, 112, 112), tmp_path, opset_version=11)
    known.agrees("emb", build(read_checkpoint(file))(image))
    known.agrees("emb", embedding)
    known.agrees("grad_x", gradient(embedding, noise((2, 512), 3), image))


def test_facenet_embedding_and_gradient(fixture: Load) -> None:
    known = fixture("facenet_irv1_vggface2_recipe")
    image = noise((2, 3, 160, 160)).requires_grad_()
    embedding = known.network()(image)
    known.agrees("emb", embedding)
    # Of 130 layers with ReLU, float32 leaves a gradient 1e-3 of noise, the reference's too. Ours in
    # float64 is nearer to the reference than ours in float32 is.
    exact = noise((2, 3, 160, 160)).double().requires_grad_()
    slope = gradient(known.network().double()(exact), noise((2, 512), 3).double(), exact)
    wanted = torch.from_numpy(known.outputs["grad_x"])
    assert (slope[:, :, ::2, ::2] - wanted).norm() <= 1e-3 * wanted.norm()


def test_landmark_points_map_and_gradient(fixture: Load) -> None:
    known = fixture("landmark_mobilefacenet68_recipe")
    network = known.network({"state_dict": known.state(), "epoch": 3})
    image = (noise((2, 3, 112, 112), scale=0.2) + 0.5).requires_grad_()
    points = network(image)
    assert points.shape == (2, 68, 2)
    known.agrees("out", points.flatten(1))
    features = network.features
    assert callable(features)
    known.agrees("conv", features(image)[:, ::8])
    known.agrees("grad_x", gradient(points.flatten(1), noise((2, 136), 3), image))


def test_expression_encoder_features(fixture: Load) -> None:
    known = fixture("torchvision_inceptionv3_recipe")
    image = noise((1, 3, 299, 299), scale=0.5).requires_grad_()
    pooled = known.network()(image)
    known.agrees("pool", pooled)
    assert gradient(pooled, torch.ones_like(pooled), image).abs().max() > 0


def test_fid_features_by_pytorch_fids_own_input_convention(fixture: Load) -> None:
    known = fixture("fid_inception_recipe")
    trunk = Trunk(known.network(), CONVENTIONS["fid_inception"], 2048)
    image = (2 * torch.sigmoid(noise((2, 3, 64, 64))) - 1).requires_grad_()
    pooled = trunk(image)
    known.agrees("pool3", pooled[:, :, None, None])
    assert gradient(pooled, torch.ones_like(pooled), image).abs().max() > 0


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_distance_layers_and_gradient(fixture: Load, net: str) -> None:
    known = fixture(f"lpips_{net}_recipe")
    # As torchvision has them: the package keeps torchvision's numbers behind its slices.
    state = {f"features.{n.split('.', 2)[2]}": v for n, v in known.state().items()}
    state |= {"classifier.1.weight": torch.zeros(4, 4), "classifier.1.bias": torch.zeros(4)}
    network = known.network(state)
    a, b = (torch.tanh(noise((2, 3, 64, 64), seed)) for seed in (1, 2))
    a.requires_grad_()
    distance, layers = network(a, b, retPerLayer=True)
    known.agrees("d", distance)
    for index, layer in enumerate(layers):
        known.agrees(f"l{index}", layer)
    known.agrees("grad_a", gradient(distance, noise((2, 1, 1, 1), 3), a), 1e-3)


@pytest.mark.parametrize(
    "name",
    [
        "landmark_mobilefacenet68_recipe",
        "lpips_alex_recipe",
        "facenet_irv1_vggface2_recipe",
    ],
)
def test_a_checkpoint_converted_to_safetensors_is_the_same_network(
    fixture: Load, name: str, tmp_path: Path
) -> None:
    known = fixture(name)
    state = known.state()
    if name.startswith("lpips"):
        state = {f"features.{n.split('.', 2)[2]}": v for n, v in state.items()}
    torch.save(state, tmp_path / "public.pth")
    imported = import_content(state, name)
    again = read_checkpoint(convert(tmp_path / "public.pth"))
    assert again.network == imported.network
    for key, value in build(again).state_dict().items():
        assert torch.equal(value, imported.state[key]), key
