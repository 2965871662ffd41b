"""One training loop for the mini world's networks: a budget in steps, and no run is lost.

Everything random in a step comes from the step's number, so a killed run that goes on from its
checkpoint ends with the same weights as one that was never killed.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from math import cos, pi
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deid.progress import progress
from deid.seeds import numpy_generator, seed_of
from deid.storage.staging import resumable_directory
from deid.worlds.mini.cards import Card, hardware, write_card

CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True)
class Schedule:
    """AdamW with one cycle: the rate rises over the first tenth and falls as a cosine to 0."""

    steps: int
    seed: int = 0
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    bfloat16: bool = True

    def rate(self, step: int) -> float:
        """The learning rate at `step`."""
        rise = max(1, self.steps // 10)
        if step < rise:
            return self.learning_rate * (step + 1) / rise
        return self.learning_rate * 0.5 * (1 + cos(pi * (step - rise) / max(1, self.steps - rise)))

    def precision(self) -> AbstractContextManager[object]:
        """For the network's forward pass: bfloat16 where asked. Losses stay in float32."""
        return torch.autocast("cpu", torch.bfloat16) if self.bfloat16 else nullcontext()


class Batches:
    """The picture indices of each step: epochs over `indices`, each in its own order."""

    def __init__(self, indices: NDArray[np.int64], schedule: Schedule, name: str) -> None:
        self.indices, self.size, self.seed, self.name = (
            indices,
            schedule.batch_size,
            schedule.seed,
            name,
        )
        self._epoch = -1
        self._order = indices

    def __call__(self, step: int) -> NDArray[np.int64]:
        """`[batch_size]`; what an epoch cannot fill is left out."""
        epoch, place = divmod(step, len(self.indices) // self.size)
        if epoch != self._epoch:
            rng = numpy_generator(f"mini/{self.name}/order", epoch, self.seed)
            self._order, self._epoch = rng.permutation(self.indices), epoch
        return self._order[place * self.size : (place + 1) * self.size]


def train(
    name: str,
    build: Callable[[], nn.Module],
    loss: Callable[[nn.Module, int], Tensor],
    measure: Callable[[nn.Module], tuple[nn.Module, Card]],
    schedule: Schedule,
    out: Path,
) -> None:
    """Train `build()` on `loss(model, step)` and write `out/<name>.safetensors` with its card.

    `measure` gets the trained model in eval mode and returns the part to keep and what its card
    says (data, figures). `build` runs under a fixed seed.
    """
    torch.set_num_threads(1)
    with resumable_directory(out, {"name": name, **asdict(schedule)}) as working:
        torch.manual_seed(seed_of(f"mini/{name}/weights", 0, schedule.seed))
        model = build().to(memory_format=torch.channels_last)
        seconds = _run(name, model, loss, schedule, working / "checkpoint.pt")
        with torch.no_grad():
            kept, card = measure(model.eval())
        facts = {"training": asdict(schedule), "seconds": round(seconds), "hardware": hardware()}
        write_card(working, name, kept, card | facts)
        (working / "checkpoint.pt").unlink(missing_ok=True)


def _run(
    name: str,
    model: nn.Module,
    loss: Callable[[nn.Module, int], Tensor],
    schedule: Schedule,
    checkpoint: Path,
) -> float:
    """The steps that are missing; returns the seconds of all of them."""
    optimizer = torch.optim.AdamW(_groups(model, schedule.weight_decay), betas=(0.9, 0.99))
    first, before = _resume(checkpoint, model, optimizer)
    start = saved = time.monotonic()
    model.train()
    average = 0.0
    with progress(name, schedule.steps, first) as bar:
        for step in range(first, schedule.steps):
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step)
            value = loss(model, step)
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            average = value.item() if step == first else 0.98 * average + 0.02 * value.item()
            bar.advance()
            bar.note(f"loss {average:.4f}")
            now = time.monotonic()
            if now - saved > CHECKPOINT_SECONDS or step == schedule.steps - 1:
                _save(checkpoint, model, optimizer, step + 1, before + now - start)
                saved = now
    return before + time.monotonic() - start


def _groups(model: nn.Module, decay: float) -> list[dict[str, object]]:
    """Only matrices and kernels decay; gains and biases do not."""
    kernels = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [
        {"params": kernels, "weight_decay": decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _save(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, seconds: float
) -> None:
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "seconds": seconds,
    }
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def _resume(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    if not path.is_file():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["seconds"])
