"""What every test may ask for."""

import os
from pathlib import Path

import pytest
import torch

from deid.params import WorldParams
from deid.worlds import load_world
from deid.worlds.world import World

ROOT = Path(__file__).resolve().parent.parent
torch.set_num_threads(1)  # tests run on every core already, one process each


@pytest.fixture(scope="session")
def assets() -> Path:
    """Outside pictures and networks that are not part of the project."""
    folder = Path(os.environ.get("DEID_TEST_ASSETS", ROOT.parent / "shared"))
    if not (folder / "weights").is_dir():
        pytest.skip(f"no test assets in {folder}; set DEID_TEST_ASSETS")
    return folder


@pytest.fixture(scope="session")
def world() -> World:
    """The embedded world with its committed weights."""
    return load_world(WorldParams(weights=ROOT / "data/mini/weights"))
