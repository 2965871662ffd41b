"""The training loop of the networks that come with the project: a budget in steps, no run is lost.

The mini world's own networks and the learned rivals train in it; the paper's two stages, which
people train themselves, have theirs in `deid.training.loop`.

Everything random in a step follows from the step's number, so a killed run that resumes from its
checkpoint ends with the same weights as one that was never killed.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from deid.progress import progress
from deid.seeds import numpy_generator, seed_of
from deid.storage.staging import resumable_directory
from deid.worlds.cards import Card, hardware, write_card

CHECKPOINT_SECONDS = 60.0
MAX_GRADIENT = 5.0  # longer ones, over all weights together, are scaled down to this


@dataclass(frozen=True)
class Schedule:
    """The numbers of a training."""

    steps: int
    seed: int = 0
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    averaging: float = 0.0  # decay of the moving average of the weights that is kept; 0: none is
    bfloat16: bool = True
    threads: int = 1

    def rate(self, step: int) -> float:
        """Share of the learning rate: it rises over the first tenth, then falls as a cosine to 0.

        Warm-up and cosine as in Loshchilov & Hutter 2017, without restarts.
        """
        rise = max(1, self.steps // 10)
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + cos(pi * (step - rise) / max(1, self.steps - rise)))

    def precision(self) -> AbstractContextManager[object]:
        """For the network's forward pass: bfloat16 where asked. Losses stay in float32."""
        return torch.autocast("cpu", torch.bfloat16) if self.bfloat16 else nullcontext()


class Batches:
    """The picture indices of each step: epochs over `indices`, each in its own order."""

    def __init__(self, indices: NDArray[np.int64], schedule: Schedule, stream: str) -> None:
        self.indices, self.schedule, self.stream = indices, schedule, stream
        self._epoch, self._order = -1, indices

    def __call__(self, step: int) -> NDArray[np.int64]:
        """`[batch_size]`; what an epoch cannot fill is left out."""
        size = self.schedule.batch_size
        epoch, place = divmod(step, len(self.indices) // size)
        if epoch != self._epoch:
            rng = numpy_generator(f"{self.stream}/order", epoch, self.schedule.seed)
            self._order, self._epoch = rng.permutation(self.indices), epoch
        return self._order[place * size : (place + 1) * size]


@dataclass(frozen=True)
class Phase:
    """One part of a step: a loss, the weights that it trains, and what moves them.

    A network that is trained against another has a phase for each of the two.
    """

    loss: Callable[[nn.Module, int], Tensor]
    weights: Sequence[nn.Parameter]
    optimizers: Sequence[torch.optim.Optimizer]


class Task(ABC):
    """What differs from one network's training to the next."""

    memory_format = torch.channels_last
    family = "mini"  # of whose trainings the name tells this one apart

    def __init__(self, name: str, schedule: Schedule) -> None:
        self.name, self.schedule = name, schedule

    @abstractmethod
    def build(self) -> nn.Module:
        """The untrained network; called under a fixed seed."""

    def recipe(self) -> dict[str, Any]:
        """Everything that shapes the result: with another, no training is taken up again."""
        return {"name": self.name, **asdict(self.schedule)}

    @property
    def stream(self) -> str:
        """The name of its random numbers."""
        return f"{self.family}/{self.name}"

    @abstractmethod
    def loss(self, model: nn.Module, step: int) -> Tensor:
        """What step `step` minimizes; draws its own batch."""

    def phases(self, model: nn.Module) -> list[Phase]:
        """What a step consists of: `loss` alone, unless it says otherwise."""
        return [Phase(self.loss, list(model.parameters()), self.optimizers(model))]

    @abstractmethod
    def measure(self, model: nn.Module) -> tuple[nn.Module, Card]:
        """The part of the trained network to keep, and what its card says of data and figures."""

    def optimizers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        """AdamW; only matrices and kernels decay, not gains and biases."""
        kernels = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [
            {"params": kernels},
            {"params": others, "weight_decay": 0.0},
        ]
        rate, decay = self.schedule.learning_rate, self.schedule.weight_decay
        return [torch.optim.AdamW(groups, rate, (0.9, 0.99), weight_decay=decay)]

    def random(self, step: int) -> np.random.Generator:
        """The random numbers of a step."""
        return numpy_generator(f"{self.stream}/step", step, self.schedule.seed)


class Run:
    """A training under way: networks, optimizers and how far they are."""

    def __init__(self, task: Task) -> None:
        self.task, schedule = task, task.schedule
        torch.manual_seed(seed_of(f"{task.stream}/weights", 0, schedule.seed))
        self.model = task.build().to(memory_format=task.memory_format).train()
        averaged = schedule.averaging > 0
        self.average = AveragedModel(self.model, avg_fn=self._follow) if averaged else None
        self.phases = task.phases(self.model)
        self.optimizers = [each for phase in self.phases for each in phase.optimizers]
        self.schedulers = [LambdaLR(each, schedule.rate) for each in self.optimizers]
        self.step, self.seconds = 0, 0.0

    def _follow(self, slow: Tensor, fast: Tensor, count: Tensor | int) -> Tensor:
        """The moving average of a weight; over few steps it is short, so that it is of use soon."""
        decay = min(self.task.schedule.averaging, (1 + int(count)) / (10 + int(count)))
        return slow.lerp(fast, 1 - decay)

    @property
    def trained(self) -> nn.Module:
        """The network to keep: with averaged weights, where asked."""
        return self.model if self.average is None else self.average.module

    def advance(self) -> float:
        """One step; the loss of its first phase."""
        losses = [self._minimize(phase) for phase in self.phases]
        for scheduler in self.schedulers:
            scheduler.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.step += 1
        return losses[0]

    def _minimize(self, phase: Phase) -> float:
        value = phase.loss(self.model, self.step)
        self.model.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(phase.weights, MAX_GRADIENT)
        for optimizer in phase.optimizers:
            optimizer.step()
        return value.item()

    def save(self, path: Path) -> None:
        """Everything that `load` needs to resume here."""
        state = {name: part.state_dict() for name, part in self._parts().items()}
        temporary = path.with_suffix(".tmp")
        torch.save(state | {"step": self.step, "seconds": self.seconds}, temporary)
        temporary.replace(path)

    def load(self, path: Path) -> None:
        """Resume from what `save` wrote."""
        state = torch.load(path, weights_only=True)
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.step, self.seconds = state["step"], state["seconds"]

    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"model": self.model}
        if self.average is not None:
            parts["average"] = self.average
        for index, optimizer in enumerate(self.optimizers):
            parts[f"optimizer {index}"] = optimizer
            parts[f"scheduler {index}"] = self.schedulers[index]
        return parts


def train(task: Task, out: Path) -> None:
    """Train the task's network; write `<name>.safetensors` and its card into the folder `out`."""
    schedule = task.schedule
    torch.set_num_threads(schedule.threads)
    with resumable_directory(out, task.recipe()) as working:
        run, checkpoint = Run(task), working / "checkpoint.pt"
        if checkpoint.is_file():
            run.load(checkpoint)
        _finish_steps(run, checkpoint)
        with torch.no_grad():
            kept, card = task.measure(run.trained.eval())
        facts = {"training": asdict(schedule), "seconds": round(run.seconds)}
        write_card(working, task.name, kept, card | facts | {"hardware": hardware()})
        checkpoint.unlink(missing_ok=True)


def _finish_steps(run: Run, checkpoint: Path) -> None:
    """The steps that are missing, with a checkpoint every minute and at the end."""
    steps = run.task.schedule.steps
    before, start = run.seconds, time.monotonic()
    saved = start
    with progress(run.task.name, steps, run.step) as bar:
        while run.step < steps:
            loss, now = run.advance(), time.monotonic()
            run.seconds = before + now - start
            bar.advance()
            bar.note(f"loss {loss:.4f}")
            if now - saved > CHECKPOINT_SECONDS or run.step == steps:
                run.save(checkpoint)
                saved = now
