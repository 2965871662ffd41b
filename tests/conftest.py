"""What every test may ask for."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from deid.params import WorldParams
from deid.pool import processors
from deid.worlds import load_world
from deid.worlds.world import World

SLOW = ("test_pipeline", "test_ffhq", "test_flows", "test_scale", "test_package")
"""Files that take a minute or more each, the longest first; their tests are marked `slow`."""

LONG = (
    *("test_importers", "test_batch", "test_badinput", "test_evaluate", "test_service"),
    *("test_storage", "test_serve", "test_tracking", "test_worlds", "test_latents"),
    *("test_calibration", "test_choice", "test_anonymize"),
)
"""Files that take half a minute or more, the longest first."""

ROOT = Path(__file__).resolve().parent.parent
# A run tells of the change, not of its luck, nor of what else the machine has to do.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")
torch.set_num_threads(1)  # tests run on every core already, one process each


def pytest_configure(config: pytest.Config) -> None:
    """Hand files to the processes in our order, not those with most tests first."""
    config.option.loadscopereorder = False


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors, for some tests wait for servers."""
    return processors() + 1


@pytest.hookimpl(tryfirst=True)  # before `-m "not slow"` selects
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow files last; but where processes share the work they and long ones come first, so that
    all processes end together."""
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker("slow")
    order = (*SLOW, *LONG) if hasattr(config, "workerinput") else ("", *SLOW)
    ranks = {name: rank for rank, name in enumerate(order)}
    rest = len(order) if hasattr(config, "workerinput") else 0
    items.sort(key=lambda item: ranks.get(item.path.stem, rest))


@pytest.fixture(autouse=True)
def _own_code() -> Iterator[None]:
    """A model that MLflow loads puts its copy of our code first on the path, for good; processes
    that a later test starts would import it."""
    before = list(sys.path)
    yield
    sys.path[:] = before


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


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file of MLflow with nothing in it: to make one takes seconds, to copy it none."""
    from deid.tracking import mlflow_client

    folder = tmp_path_factory.mktemp("empty-store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        mlflow_client()
    return folder / "mlflow.db"
