"""The loop both stages share: steps, checkpoints, curves. What a step does is the stage's own."""

import csv
import io
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from deid.errors import DeidError
from deid.latents.shards import LatentDataset
from deid.params import StageOneParams, StageTwoParams
from deid.progress import progress
from deid.seeds import numpy_generator
from deid.storage.staging import write_atomically
from deid.training.checkpoint import load_checkpoint, save_checkpoint
from deid.training.processes import barrier
from deid.worlds.world import World

if TYPE_CHECKING:
    from deid.tracking import Tracker

WINDOW = 20
"""Curves show means over so many steps: a step's own losses depend on its batch."""

Losses = dict[str, float]
History = dict[str, list[float]]


class Stage(Protocol):
    """What the loop trains, and what it leaves."""

    name: str
    fabric: Fabric

    @property
    def params(self) -> StageOneParams | StageTwoParams: ...

    def step(self, index: int) -> Losses:
        """Train on batch `index`, which is the same batch whenever it is asked for."""
        ...

    def state(self) -> dict[str, Any]:
        """Modules and optimizers that steps change."""
        ...

    def recipe(self) -> dict[str, Any]:
        """Everything that shapes the result."""
        ...

    def figures(self) -> Losses:
        """What the trained model reaches on held-out faces."""
        ...

    def save(self, folder: Path, figures: Losses) -> None:
        """Write the model with its description, and a sheet of samples as `sheet.png`."""
        ...


def train(stage: Stage, working: Path, tracker: "Tracker | None" = None) -> History:
    """Run all steps from the last checkpoint in `working` on; leaves `losses.csv` there.

    Raises `DeidError` where a loss is not finite.
    """
    writes = stage.fabric.is_global_zero
    params = stage.params
    state: dict[str, Any] = {**stage.state(), "done": 0, "history": {}}
    load_checkpoint(stage.fabric, working, state)
    history: History = state["history"]
    barrier(stage.fabric)  # all have read it before anyone writes the next
    with progress(stage.name, params.steps, state["done"], shown=writes) as bar:
        for index in range(state["done"], params.steps):
            losses = stage.step(index)
            _record(history, losses, index)
            bar.advance()
            if (index + 1) % WINDOW == 0:
                means = _means(history, index + 1 - WINDOW)
                bar.note(" ".join(f"{name} {value:.3f}" for name, value in means.items()))
                if tracker:
                    tracker.metrics(index + 1, **means)
            if (index + 1) % params.checkpoint_every == 0:
                save_checkpoint(stage.fabric, working, {**state, "done": index + 1})
                if writes:
                    write_curves(working / "losses.csv", history)
    if writes:
        write_curves(working / "losses.csv", history)
    return history


def _record(history: History, losses: Losses, index: int) -> None:
    for name, value in losses.items():
        if not math.isfinite(value):
            raise DeidError(
                f"step {index}: loss {name} is {value}; lower the learning rates in params.yaml"
            )
        history.setdefault(name, [math.nan] * index)
    for name, values in history.items():  # nan: this step has no such loss
        values.append(losses.get(name, math.nan))


def _means(history: History, start: int) -> Losses:
    windows = {name: np.array(values[start : start + WINDOW]) for name, values in history.items()}
    return {name: float(np.nanmean(w)) for name, w in windows.items() if not np.isnan(w).all()}


def write_curves(path: Path, history: History) -> None:
    """CSV: `step`, then each loss's mean over the `WINDOW` steps that end there."""
    text = io.StringIO()
    table = csv.DictWriter(text, ["step", *history], lineterminator="\n")
    table.writeheader()
    steps = max((len(values) for values in history.values()), default=0)
    for start in range(0, steps, WINDOW):
        means = {name: f"{value:.6g}" for name, value in _means(history, start).items()}
        table.writerow({"step": min(start + WINDOW, steps), **means})
    write_atomically(path, text.getvalue().encode())


def rate_factor(index: int, steps: int) -> float:
    """The learning rate's cosine from 1 down to 0.02 over a run, after a warm-up of 20 steps."""
    warm = min(1.0, (index + 1) / 20)
    return warm * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * index / steps)))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter of `optimizer` this learning rate, or its group's `share` of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("share", 1.0)


def batch_rows(
    name: str, index: int, seed: int, pairs: int, shape: tuple[int, ...]
) -> NDArray[np.int64]:
    """Rows of the pairs for step `index`, drawn by its number only."""
    return numpy_generator(name, index, seed).integers(0, pairs, shape)


def require_same_world(pairs: LatentDataset, world: World, latents: Path) -> None:
    """`DeidError` unless the pairs were drawn from this very world."""
    if pairs.index.weights_sha256 != world.weights_sha256:
        raise DeidError(f"{latents}: drawn from other weights; draw again with `deid sample`")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initialize networks in this block from `seed`, without touching torch's global stream."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def rounded(figures: Mapping[str, float]) -> Losses:
    """Figures for a JSON file: six digits."""
    return {name: float(f"{value:.6g}") for name, value in figures.items()}
