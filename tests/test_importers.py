"""Public checkpoints in our networks: each fixture's outputs and gradients, to float32's accuracy.

The references are other people's code (the fixtures' README.json says whose), run in float32. A
leaky ReLU's slope jumps at zero, and some units lie so near that rounding decides their sign, in
the reference as in ours, and otherwise on another processor: of the small fixtures' gradients one
is 3e-2 from the exact one, of those at 256 px some are 1e-3. So the small networks are compared in
float64, at points as near to the fixture's w+ as float32 can tell: at one of them every unit is on
the fixture's side of zero, and there they agree to 1e-5.
"""

import copy
import dataclasses
import importlib.util
import json
import pickle
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deid.errors import DeidError
from deid.nets.mobile_stylegan import MobileSynthesis
from deid.nets.style import StyleGenerator, truncate
from deid.nets.stylegan2 import StyleGAN2, stylegan2
from deid.weights.cards import card_path
from deid.weights.convert import convert
from deid.weights.importers import build, import_content, read_checkpoint
from deid.weights.importers.base import Imported

Content = dict[str, Any]
FLOAT32 = 3e-7
"""Relative: a few of float32's last digits."""
SMALL = {
    "rosinality_stylegan2_small64": ("ckpt.pt", None),
    "nv_stylegan2ada_small64": ("ckpt.pt", None),
    "genforce_stylegan1_small64": ("ckpt.pth", 8),
    "genforce_stylegan2_small64": ("ckpt.pth", 12),
}
FULL = {
    "rosinality_stylegan2_256_cm2_recipe": "g_ema",
    "nv_stylegan2_256_base16384_recipe": "G_ema",
    "nv_stylegan2_256_base32768_recipe": "G_ema",
    "genforce_stylegan1_256_recipe": "generator_smooth",
    "genforce_stylegan2_256_recipe": "generator_smooth",
}


def error(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, against the spread of the values."""
    return float((ours.detach() - theirs).abs().max() / theirs.std())


def far(ours: Tensor, theirs: Tensor) -> float:
    """The distance against the length: as vectors or of the largest element, whichever is more."""
    apart = ours - theirs
    return float(max(apart.norm() / theirs.norm(), apart.abs().max() / theirs.abs().max()))


def outputs(folder: Path) -> dict[str, Tensor]:
    with np.load(folder / "io.npz") as arrays:
        return {name: torch.tensor(arrays[name]) for name in arrays}


def recipe_content(folder: Path, key: str) -> Content:
    """A full-size checkpoint, every tensor filled by the fixtures' recipe."""
    specification = importlib.util.spec_from_file_location("recipe", folder.parent / "recipe.py")
    assert specification is not None
    assert specification.loader is not None
    recipe = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(recipe)
    state = {
        name: constant(shape)
        if kind == "const"
        else torch.as_tensor(recipe.fill(name, shape, kind))
        for name, shape, kind in json.loads((folder / "inventory.json").read_text())
    }
    content: Content = {key: state}
    if json.loads((folder / "README.json").read_text()).get("conv_clamp"):
        content["conv_clamp"] = 256
    return content


def constant(shape: list[int]) -> Tensor:
    """A reference's constant: a FIR filter, or synthesis.lod, which is 0."""
    if not shape:
        return torch.zeros(())
    taps = torch.tensor([1.0, 2.0, 1.0] if shape[-1] == 3 else [1.0, 3.0, 3.0, 1.0])
    return (torch.outer(taps, taps) / taps.sum() ** 2).expand(shape)


def gradient(network: StyleGenerator, wplus: Tensor) -> Tensor:
    """Of the projection that the fixtures' gradients are of."""
    wplus = wplus.clone().requires_grad_()
    images = network.synthesis(wplus)
    projection = np.random.RandomState(3).standard_normal(images.shape) / images[0].numel()
    score = (images * torch.tensor(projection, dtype=images.dtype)).sum()
    return torch.autograd.grad(score, wplus)[0]


def without_noise(network: StyleGenerator, w: Tensor) -> Tensor:
    saved = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    silent = {n: t * 0 if n.endswith("noise_strength") else t for n, t in saved.items()}
    network.load_state_dict(silent)
    images = network.synthesis(w)
    network.load_state_dict(saved)
    return images


@pytest.fixture(scope="module", params=SMALL)
def small(request: pytest.FixtureRequest, assets: Path) -> tuple[StyleGenerator, Any, int | None]:
    folder = assets / "fixtures" / request.param
    file, layers = SMALL[request.param]
    return generator(read_checkpoint(folder / file)), outputs(folder), layers


def generator(imported: Imported) -> StyleGenerator:
    network = build(imported)
    assert isinstance(network, StyleGenerator)
    return network


def w_of(io: Mapping[str, Tensor]) -> Tensor:
    return io["w"] if "w" in io else io["ws"][:, 0]


def cut_off(network: StyleGenerator, w: Tensor, psi: float, layers: int | None) -> Tensor:
    """w+ truncated at its first `layers` layers only, which NVIDIA calls a cutoff."""
    ws = network.spread(w)
    rest = ws[:, network.num_ws if layers is None else layers :]
    return torch.cat((truncate(ws[:, :layers], network.w_mean, psi), rest), 1)


def test_mapping_and_truncation_agree(small: tuple[StyleGenerator, Any, int | None]) -> None:
    network, io, layers = small
    w = w_of(io)
    assert error(network.mapping(io["z"]), w) < 1e-4
    if "w_psi07" in io:  # rosinality: one w
        assert error(truncate(w, network.w_mean, 0.7), io["w_psi07"]) < 1e-4
    elif "ws_psi07" in io:  # NVIDIA: w+, or a cutoff
        assert error(network.spread(truncate(w, network.w_mean, 0.7)), io["ws_psi07"]) < 1e-4
        assert error(cut_off(network, w, 0.5, 4), io["ws_psi05_cut4"]) < 1e-4
    else:  # genforce: the first layers
        assert error(cut_off(network, w, 0.7, layers), io["wp_psi07_cut"]) < 1e-4
        wplus = cut_off(network, io["wplus"], 0.7, layers)
        assert torch.equal(wplus[:, layers:], io["wplus"][:, layers:])


def test_pictures_agree(small: tuple[StyleGenerator, Any, int | None]) -> None:
    network, io, layers = small
    w = w_of(io)
    assert error(network.synthesis(w), io["img_const"]) < 1e-4
    assert error(network.synthesis(io["wplus"]), io["img_wplus_const"]) < 1e-4
    assert error(network.synthesis(cut_off(network, w, 0.7, layers)), io["img_const_psi07"]) < 1e-4
    assert error(without_noise(network, w), io["img_none"]) < 1e-4


def test_gradients_agree(small: tuple[StyleGenerator, Any, int | None]) -> None:
    network, io, _ = small
    exact, wplus, wanted = copy.deepcopy(network).double(), io["wplus"], io["grad_wplus"]
    generator = torch.Generator().manual_seed(0)
    nearest = torch.full((len(wplus),), torch.inf)
    for _ in range(8):
        near = 1 + FLOAT32 * torch.randn(wplus.shape, generator=generator).double()
        apart = (gradient(exact, wplus * near) - wanted).abs().amax((1, 2)) / wanted.std()
        nearest = torch.minimum(nearest, apart)
    assert nearest.max() < 1e-4
    # In float32 a unit may have fallen on the other side; all others agree.
    rounded = (gradient(network, wplus) - gradient(exact, wplus.double())).abs()
    assert rounded.amax((1, 2)).min() / wanted.std() < 1e-4


def test_the_same_w_gives_the_same_picture(small: tuple[StyleGenerator, Any, int | None]) -> None:
    network, io, _ = small
    w = w_of(io)
    assert torch.equal(network.synthesis(w), network.synthesis(w))
    assert network.synthesis(w).shape == (len(w), 3, network.resolution, network.resolution)
    assert network.num_ws == io["wplus"].shape[1]


@pytest.mark.parametrize("name", FULL)
def test_full_size_agrees(assets: Path, name: str) -> None:
    folder = assets / "fixtures" / name
    io = outputs(folder)
    content = recipe_content(folder, FULL[name])
    if "latent_avg" in io:
        content["latent_avg"] = io["latent_avg"]
    network = generator(import_content(content, name))
    w = w_of(io)
    assert (network.resolution, network.num_ws) == (256, 14)
    assert error(network.mapping(io["z"]), w) < 1e-4
    with torch.inference_mode():
        assert error(network.synthesis(w), io["img_const"]) < 1e-4
    wplus, wanted = io["wplus"], io["grad_wplus"]
    # In float32 a unit may fall on the other side of zero, another on each processor: 3.7e-3 seen.
    for order in (True, False) if isinstance(network, StyleGAN2) else (False,):
        if isinstance(network, StyleGAN2):
            network.fused = order
        assert far(gradient(network, wplus), wanted) < 1e-2
    assert far(gradient(network.double(), wplus.double()), wanted) < 1e-3


def test_both_orders_of_operations_are_one_function() -> None:
    """In float64, where no sign is left to rounding."""
    network = tiny(conv_clamp=0.5).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    wplus = torch.randn(3, network.num_ws, 6, dtype=torch.float64, requires_grad=True)
    images, gradients = [], []
    for fused in (False, True):
        network.fused = fused
        assert network.fused == fused
        images.append(network.draw(wplus))
        gradients.append(torch.autograd.grad(images[-1].square().sum(), wplus)[0])
    assert torch.allclose(*images, atol=1e-6)
    assert torch.allclose(*gradients, atol=1e-5)


def nvidia_content(ours: Mapping[str, Tensor]) -> Content:
    """Our StyleGAN2's state under NVIDIA's names, written down independently of the importer."""
    state: Content = {"mapping.w_avg": ours["w_mean"], "synthesis.b4.const": ours["constant"][0]}
    for name, tensor in ours.items():
        words = name.split(".")
        leaf = ".".join({"style": "affine"}.get(word, word) for word in words[2:])
        if words[0] == "mapping_network":
            state[f"mapping.fc{words[2]}.{words[3]}"] = tensor
        elif words[0] == "to_rgb":
            state[f"synthesis.b{4 << int(words[1])}.torgb.{leaf}"] = tensor
        elif words[0] == "convolutions":
            index = int(words[1])
            stem = f"synthesis.b{4 << (index + 1) // 2}.conv{1 - index % 2}"
            value = tensor[0, 0] if leaf == "noise" else tensor
            state[f"{stem}.{'noise_const' if leaf == 'noise' else leaf}"] = value
    return {"G_ema": state}


def genforce_content(ours: Mapping[str, Tensor]) -> Content:
    """The same under genforce's names: doubling layers flipped, styles' biases less one."""
    state: Content = {"truncation.w_avg": ours["w_mean"]}
    state["synthesis.early_layer.const"] = ours["constant"]
    for name, tensor in ours.items():
        words = name.split(".")
        leaf = ".".join(words[2:])
        value = tensor - 1.0 if leaf == "style.bias" else tensor
        if words[0] == "mapping_network":
            state[f"mapping.dense{words[2]}.{words[3]}"] = tensor
        elif words[0] == "to_rgb":
            state[f"synthesis.output{words[1]}.{leaf}"] = value
        elif words[0] == "convolutions":
            doubling = leaf == "weight" and int(words[1]) % 2
            state[f"synthesis.layer{words[1]}.{leaf}"] = value.flip(2, 3) if doubling else value
    return {"generator_smooth": state}


@pytest.mark.parametrize("layout", [nvidia_content, genforce_content])
def test_the_same_network_in_another_layout_is_the_same(
    assets: Path, layout: Callable[[Mapping[str, Tensor]], Content]
) -> None:
    """Their layouts' meanings are pinned by the fixtures above; so any two files of one network
    give one picture."""
    folder = assets / "fixtures/rosinality_stylegan2_small64"
    imported = read_checkpoint(folder / "ckpt.pt")
    other = import_content(layout(imported.state), "renamed")
    assert other.state.keys() == imported.state.keys()
    io = outputs(folder)
    pictures = generator(other).synthesis(io["wplus"])
    assert error(pictures, io["img_wplus_const"]) < 1e-4


WIDTHS = (8, 8, 8, 6, 6, 4)
"""Of a style-based network for 128 px, whose last doubling is a transposed convolution."""


def style_based_content() -> Content:
    """rosinality's style-based layout: 128 px trained, layers for 256 px as initialized."""
    torch.manual_seed(1)
    state: Content = {"generator.progression.0.conv1.input": torch.randn(1, 8, 4, 4)}
    before = 8
    for block, width in enumerate((*WIDTHS, 4)):
        stem = f"generator.progression.{block}"
        trained = float(block < len(WIDTHS))
        if 0 < block < 5:
            state[f"{stem}.conv1.1.conv.weight_orig"] = torch.randn(width, before, 3, 3)
            state[f"{stem}.conv1.1.conv.bias"] = torch.randn(width) * trained
        elif block:
            state[f"{stem}.conv1.0.weight"] = torch.randn(before, width, 3, 3)
            state[f"{stem}.conv1.0.bias"] = torch.randn(width) * trained
        state[f"{stem}.conv2.conv.weight_orig"] = torch.randn(width, width, 3, 3)
        state[f"{stem}.conv2.conv.bias"] = torch.randn(width) * trained
        for number in (1, 2):
            state[f"{stem}.noise{number}.weight_orig"] = torch.randn(1, width, 1, 1) * trained
            state[f"{stem}.adain{number}.style.linear.weight_orig"] = torch.randn(2 * width, 8)
            state[f"{stem}.adain{number}.style.linear.bias"] = torch.randn(2 * width)
        state[f"generator.to_rgb.{block}.conv.weight_orig"] = torch.randn(3, width, 1, 1)
        state[f"generator.to_rgb.{block}.conv.bias"] = torch.randn(3) * trained
        before = width
    for layer in (1, 3):
        state[f"style.{layer}.linear.weight_orig"] = torch.randn(8, 8)
        state[f"style.{layer}.linear.bias"] = torch.randn(8)
    return {"g_running": state}


def style_based(state: Content, z: Tensor, noise: Callable[[int], Tensor]) -> Tensor:
    """What that file means, as a plain formula; `noise(size)` is that of both layers of a size."""

    def scaled(name: str) -> Tensor:
        weight = state[name]
        return weight * (2.0 / weight[0].numel()) ** 0.5

    def styled(x: Tensor, stem: str, number: int) -> Tensor:
        x = F.leaky_relu(x + scaled(f"{stem}.noise{number}.weight_orig") * noise(x.shape[-1]), 0.2)
        line = f"{stem}.adain{number}.style.linear"
        gamma, beta = F.linear(w, scaled(f"{line}.weight_orig"), state[f"{line}.bias"]).chunk(2, 1)
        return gamma[:, :, None, None] * F.instance_norm(x) + beta[:, :, None, None]

    def blurred(x: Tensor) -> Tensor:
        kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]).expand(x.shape[1], 1, 3, 3) / 16
        return F.conv2d(x, kernel, padding=1, groups=x.shape[1])

    w = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for layer in (1, 3):
        line = f"style.{layer}.linear"
        w = F.leaky_relu(F.linear(w, scaled(f"{line}.weight_orig"), state[f"{line}.bias"]), 0.2)
    x = state["generator.progression.0.conv1.input"].expand(len(z), -1, -1, -1)
    for block in range(len(WIDTHS)):
        stem = f"generator.progression.{block}"
        if 0 < block < 5:
            line = f"{stem}.conv1.1.conv"
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            x = F.conv2d(x, scaled(f"{line}.weight_orig"), state[f"{line}.bias"], padding=1)
            x = blurred(x)
        elif block:
            weight = state[f"{stem}.conv1.0.weight"] * (2.0 / (9 * WIDTHS[block - 1])) ** 0.5
            mean = F.conv2d(
                weight.flatten(0, 1)[:, None], torch.full((1, 1, 2, 2), 0.25), padding=1
            )
            taps = mean.reshape(*weight.shape[:2], 4, 4)
            x = F.conv_transpose2d(x, taps, state[f"{stem}.conv1.0.bias"], stride=2, padding=1)
            x = blurred(x)
        x = styled(x, stem, 1)
        line = f"{stem}.conv2.conv"
        x = F.conv2d(x, scaled(f"{line}.weight_orig"), state[f"{line}.bias"], padding=1)
        x = styled(x, stem, 2)
    line = f"generator.to_rgb.{len(WIDTHS) - 1}.conv"
    return F.conv2d(x, scaled(f"{line}.weight_orig"), state[f"{line}.bias"])


def test_a_style_based_file_gives_what_its_formula_says() -> None:
    content = style_based_content()
    imported = import_content(content, "style-based")
    network = generator(imported)
    assert network.resolution == 128
    assert any("128 px" in note for note in imported.notes)
    by_size = {t.shape[-1]: t for n, t in imported.state.items() if n.endswith(".noise")}
    z = torch.randn(2, 8)
    wanted = style_based(content["g_running"], z, by_size.__getitem__)
    assert error(network(z), wanted) < 1e-4


def tiny(**options: Any) -> StyleGAN2:
    torch.manual_seed(0)
    return stylegan2([8, 6, 4], [5, 7, 6], **options).eval()


class Persistent:
    """Pickles as an NVIDIA network does: its class's source, its state, its children."""

    def __init__(self, class_name: str, **state: Any) -> None:
        self.class_name, self.state = class_name, state

    def __reduce__(self) -> tuple[Any, tuple[dict[str, Any]]]:
        meta = {"type": "class", "version": 6, "module_src": "raise SystemExit('source ran')"}
        function = sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj
        return function, (meta | {"class_name": self.class_name, "state": self.state},)


def nvidia_tree(state: Content, prefix: str = "", clamp: float | None = 256) -> Persistent:
    """A state dict as the tree of modules that NVIDIA pickles."""
    own = {n: t for n, t in state.items() if "." not in n}
    children: dict[str, Content] = {}
    for name, tensor in state.items():
        if "." in name:
            child, _, rest = name.partition(".")
            children.setdefault(child, {})[rest] = tensor
    said = {"conv_clamp": clamp, "activation": "lrelu"} if "affine" in children else {}
    kinds = {"torgb": "ToRGBLayer", "conv0": "SynthesisLayer", "conv1": "SynthesisLayer"}
    return Persistent(
        kinds.get(prefix, "Block"),
        training=False,
        _parameters={n: torch.nn.Parameter(t) for n, t in own.items() if n != "noise_const"},
        _buffers={n: t for n, t in own.items() if n == "noise_const"},
        _non_persistent_buffers_set=set(),
        _modules={name: nvidia_tree(part, name, clamp) for name, part in children.items()},
        **said,
    )


@pytest.fixture
def nvidia_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Path]:
    module = types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta: Any) -> None:
        raise AssertionError("called")

    _reconstruct_persistent_obj.__module__ = module.__name__
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    monkeypatch.setattr(module, "_reconstruct_persistent_obj", _reconstruct_persistent_obj, False)
    monkeypatch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, "torch_utils.persistence", module)

    def write(value: Any, protocol: int = 3) -> Path:
        path = tmp_path / "network.pkl"
        path.write_bytes(pickle.dumps(value, protocol))
        return path

    return write


@pytest.mark.parametrize("clamp", [256, 0.05, None])
def test_an_nvidia_pickle_is_read_with_its_clamp(
    nvidia_pickle: Callable[[Any], Path], clamp: float | None
) -> None:
    network = tiny(conv_clamp=clamp)
    tree = nvidia_tree(nvidia_content(network.state_dict())["G_ema"], clamp=clamp)
    imported = read_checkpoint(nvidia_pickle({"G": None, "D": None, "G_ema": tree}))
    assert imported.config["conv_clamp"] == clamp
    w = torch.randn(2, 6)
    assert torch.equal(generator(imported).synthesis(w), network.synthesis(w))


def test_a_network_within_itself_is_refused(nvidia_pickle: Callable[[Any], Path]) -> None:
    tree = nvidia_tree(nvidia_content(tiny().state_dict())["G_ema"])
    block = tree.state["_modules"]["synthesis"].state["_modules"]["b4"]
    tree.state["_modules"]["synthesis"].state["_modules"]["b8"] = block
    with pytest.raises(DeidError, match="twice"):
        read_checkpoint(nvidia_pickle({"G_ema": tree}))


def test_the_clamp_bounds_what_convolutions_give() -> None:
    w = torch.randn(2, 6)
    loose, tight = (tiny(conv_clamp=bound).synthesis(w) for bound in (1e6, 0.05))
    assert torch.equal(loose, tiny().synthesis(w))
    assert tight.abs().max() <= 3 * 0.05 + 1e-6  # three ToRGB layers
    assert not torch.allclose(tight, loose)


def test_missing_noise_and_mean_are_filled_the_same_each_time() -> None:
    state = nvidia_content(tiny().state_dict())["G_ema"]
    bare = {n: t for n, t in state.items() if not n.endswith(("noise_const", "w_avg"))}
    first, second = (import_content({"G_ema": bare}, "bare") for _ in range(2))
    assert all(torch.equal(first.state[name], second.state[name]) for name in first.state)
    assert any("5 noise buffers" in note for note in first.notes)
    assert any("mean w" in note for note in first.notes)
    network = generator(first)
    z = torch.randn(20_000, 5)
    spread = network.mapping(z).std(0)
    assert ((network.mapping(z).mean(0) - network.w_mean).abs() < 0.1 * spread).all()
    assert not torch.equal(first.state["convolutions.1.noise"], first.state["convolutions.2.noise"])


def test_a_state_dict_goes_there_and_back(tmp_path: Path, assets: Path) -> None:
    for name, (file, _) in SMALL.items():
        imported = read_checkpoint(assets / "fixtures" / name / file)
        path = convert(assets / "fixtures" / name / file, tmp_path / f"{name}.safetensors")
        again = read_checkpoint(path)
        assert (again.network, again.notes) == (imported.network, imported.notes)
        assert again.config == imported.config
        assert again.state.keys() == imported.state.keys()
        assert all(torch.equal(again.state[n], t) for n, t in imported.state.items())
        assert build(again).state_dict().keys() == imported.state.keys()


def test_a_card_says_where_the_weights_come_from(tmp_path: Path) -> None:
    torch.save(nvidia_content(tiny().state_dict()), tmp_path / "network.pt")
    path = convert(tmp_path / "network.pt")
    assert path == tmp_path / "network.safetensors"
    card = json.loads(card_path(path).read_text())
    assert card["source"] == "network.pt"
    assert len(card["source_sha256"]) == 64
    assert card["config"]["channels"] == [8, 6, 4]
    with pytest.raises(DeidError, match="exists already"):
        convert(tmp_path / "network.pt")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DeidError, match=r"not the file its card is of.*convert"):
        read_checkpoint(path)
    card_path(path).unlink()
    with pytest.raises(DeidError, match="no known checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("synthesis.b8.conv0.weight"), "missing: 'convolutions.1.weight'"),
        (lambda s: s.update({"synthesis.b8.skip.weight": torch.zeros(1)}), "skip"),
        (lambda s: s.update({"synthesis.b8.conv0.weight": torch.zeros(6, 9, 3, 3)}), "wrong shape"),
        (lambda s: s["mapping.fc0.bias"].fill_(torch.nan), "NaN"),
        (lambda s: s.update({"mapping.embed.weight": torch.zeros(1)}), "embed"),
        (lambda s: s.pop("mapping.fc0.weight"), "missing"),
        (lambda s: s.update({"synthesis.b4.torgb.weight": torch.zeros(3)}), "damaged"),
        (lambda s: s.update({"synthesis.b4.const": torch.zeros(())}), "wrong shape"),
        (lambda s: s.update({"synthesis.b8.conv0.noise_const": torch.zeros(3)}), "wrong shape"),
        (lambda s: s.update({"synthesis.b8.torgb.weight": torch.zeros(3, 9999, 1, 1)}), "large"),
        (lambda s: s.update({"synthesis.b8.resample_filter": torch.ones(4, 4)}), "filter"),
    ],
)
def test_what_is_missing_or_strange_is_named(
    change: Callable[[Content], object], message: str
) -> None:
    content = nvidia_content({n: t.clone() for n, t in tiny().state_dict().items()})
    change(content["G_ema"])
    with pytest.raises(DeidError, match=rf"here\.pkl.*NVIDIA.*{message}"):
        import_content(content, "here.pkl")


def test_no_format_and_no_network_are_named() -> None:
    with pytest.raises(DeidError, match="odd: no known checkpoint"):
        import_content({"weights": torch.zeros(1)}, "odd")
    imported = import_content(nvidia_content(tiny().state_dict()), "n")
    with pytest.raises(DeidError, match="no network 'other'"):
        build(dataclasses.replace(imported, network="other"))


def test_building_a_generator_waits_for_no_symbolic_algebra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Of the networks without memory, torch.randn imported it with sympy, for seconds.
    monkeypatch.setitem(sys.modules, "torch.fx.experimental.symbolic_shapes", None)
    state = MobileSynthesis((8,) * 4, 8).state_dict()
    built = build(Imported("mobile_synthesis", {"channels": (8,) * 4, "w_dim": 8}, state))
    assert torch.equal(built.state_dict()["constant"], state["constant"])
