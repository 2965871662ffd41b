"""What every test may ask for."""

import os
from pathlib import Path

import pytest
import torch

from deid.params import WorldParams
from deid.worlds import load_world
from deid.worlds.world import World

LONGEST = ("test_pipeline", "test_ffhq", "test_flows", "test_scale")
"""Files that take minutes, the longest first: begun last, they would be all that still runs."""

ROOT = Path(__file__).resolve().parent.parent
torch.set_num_threads(1)  # tests run on every core already, one process each


def pytest_configure(config: pytest.Config) -> None:
    """Hand files to the processes in our order, not those with most tests first."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; within a file nothing changes."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


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
