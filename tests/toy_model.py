"""A model with random weights in both stages, saved as training saves it."""

from pathlib import Path

import torch

from deid.anonymize import ModelPaths
from deid.model import Deidentifier
from deid.seeds import torch_generator
from deid.stage_files import read_description
from deid.worlds.world import World
from tests.toy import toy_world

WIDTHS = [32, 32, 32]


def save_toy_model(root: Path, world: World | None = None) -> ModelPaths:
    """Write `root/stage_one` and `root/stage_two`; of the toy world, unless of another."""
    world, paths = world or toy_world(), ModelPaths(root / "stage_one", root / "stage_two")
    random = torch_generator("toy model")
    w = world.generator.mapping(torch.randn(500, world.generator.z_dim, generator=random))
    model = Deidentifier(world, WIDTHS, w.mean(0), w.std(0))
    _randomize(model.mapping, random)
    model.save_stage_one(paths.stage_one, {"config": {"mapping_widths": WIDTHS}})
    _randomize(model.attach(WIDTHS, delta=0.7), random)
    about = {
        "config": {"adversarial_widths": WIDTHS, "delta": 0.7},
        "stage_one_sha256": read_description(paths.stage_one)["sha256"],
    }
    assert paths.stage_two is not None
    model.save_stage_two(paths.stage_two, about)
    return paths


def _randomize(network: torch.nn.Module, random: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.2)
