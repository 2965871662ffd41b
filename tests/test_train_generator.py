"""The generator's training: what counts in the loss, and that a killed run loses nothing."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from deid.nets.style import MappingNetwork
from deid.nets.stylegan2 import StyleGAN2
from deid.worlds.mini.pretrain import train_generator
from deid.worlds.mini.pretrain.dataset import Renders, RenderSettings, make_renders
from deid.worlds.mini.pretrain.distillation import distillation_loss, psnr, regions
from deid.worlds.mini.pretrain.train_generator import Distillation
from deid.worlds.mini.render.parameters import PARAMETERS
from deid.worlds.training_loop import Run, Schedule, train

SCHEDULE = Schedule(steps=4, batch_size=4, learning_rate=0.03, averaging=0.999, bfloat16=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mini") / "renders"
    make_renders(RenderSettings(identities=6, views=4), folder, workers=1)
    return folder


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator as narrow as can be: what is tested does not depend on its width."""

    def generator() -> StyleGAN2:
        channels = {4: 8, 8: 8, 16: 8, 32: 8, 64: 4}
        mapping = MappingNetwork([PARAMETERS, 8], rate=1.0, normalize=False)
        return StyleGAN2(64, channels, mapping, z_dim=PARAMETERS, w_dim=8)

    monkeypatch.setattr(train_generator, "mini_generator", generator)


def test_landmarks_lie_in_their_regions(data: Path) -> None:
    points = torch.from_numpy(Renders(data).landmarks(np.arange(24)))
    masks = regions(points, 64)
    inside = points.floor().long().clamp(0, 63)
    rows = torch.arange(24)[:, None]
    for mask, part in ((masks.mouth, slice(48, 68)), (masks.eyes, slice(36, 48))):
        x, y = inside[:, part].unbind(-1)
        assert (mask[rows, 0, y, x] > 0.5).all()
        assert mask.mean() < 0.15


def test_an_error_in_the_mouth_costs_more_than_one_in_the_corner(data: Path) -> None:
    points = torch.from_numpy(Renders(data).landmarks(np.arange(1)))
    masks, rendered = regions(points, 64), torch.zeros(1, 3, 64, 64)
    x, y = points[0, 48:68].mean(0).int().tolist()
    for absolute in (0.0, 0.5, 1.0):
        mouth, corner = rendered.clone(), rendered.clone()
        mouth[:, :, y : y + 2, x : x + 2] = 0.5
        corner[:, :, 1:3, 1:3] = 0.5
        cost = [distillation_loss(g, rendered, masks, absolute) for g in (mouth, corner)]
        assert cost[0] > 3 * cost[1] > 0
    assert distillation_loss(rendered, rendered, masks, 0.3) == 0


def test_psnr_of_a_known_error() -> None:
    black, gray = torch.full((2, 3, 8, 8), -1.0), torch.full((2, 3, 8, 8), -0.8)
    assert psnr(gray, black) == pytest.approx(20.0, abs=1e-4)  # 0.1 of the range
    left = torch.zeros(2, 1, 8, 8)
    left[..., :4] = 1
    gray[..., 4:] = 1.0
    assert psnr(gray, black, left) == pytest.approx(20.0, abs=1e-4)


def test_a_killed_run_resumes_to_the_same_weights(data: Path, tmp_path: Path) -> None:
    whole, begun, resumed = (Run(Distillation(data, SCHEDULE)) for _ in range(3))
    for _ in range(4):
        whole.advance()
    for _ in range(2):
        begun.advance()
    begun.save(tmp_path / "checkpoint.pt")
    resumed.load(tmp_path / "checkpoint.pt")
    for _ in range(2):
        resumed.advance()
    for name, tensor in whole.trained.state_dict().items():
        assert torch.equal(tensor, resumed.trained.state_dict()[name]), name


def test_training_learns_and_writes_weights_and_card(data: Path, tmp_path: Path) -> None:
    task = Distillation(data, replace(SCHEDULE, steps=30, averaging=0.5))
    untrained = task.validate(task.build())
    train(task, tmp_path / "generator")
    written = {path.name for path in (tmp_path / "generator").iterdir()}
    assert written == {"generator.safetensors", "generator.json"}
    card = json.loads((tmp_path / "generator/generator.json").read_text())
    assert card["training"] == asdict(task.schedule)
    assert card["figures"]["psnr"] > untrained["psnr"] + 1.5
    weights = load_file(tmp_path / "generator/generator.safetensors")
    assert weights["w_mean"].abs().sum() > 0
