"""Both stages on the toy world, for tests, and as a program for trainings of several processes:

    python -m tests.toy_training FOLDER JOB ...

A JOB is JSON: `stage` (one or two), `out` (a name in FOLDER), `params`, and where it shall fail
`fails`: [rank, step, how], how being `killed` or `raises`; rank -1 means every one. Each process
writes its steps' losses to `OUT.RANK.jsonl`, and whoever opens a run in MLflow leaves `OUT.run`.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import deid.tracking
from deid.params import StageOneParams, StageTwoParams, WorldParams
from deid.training import stage_one as stage_one_module
from deid.training import stage_two as stage_two_module
from deid.training.stage_one import StageOne, train_stage_one
from deid.training.stage_two import StageTwo, train_stage_two
from tests.toy import toy_world

ONE = StageOneParams(
    steps=30,
    batch_size=4,
    threads=1,
    mapping_widths=(32, 32, 32),
    discriminator_widths=(16, 16, 16),
    checkpoint_every=10,
)
TWO = StageTwoParams(
    steps=30, batch_size=4, threads=1, adversarial_widths=(32, 32, 32), checkpoint_every=10
)


class Recorder:
    """Stands for MLflow's run."""

    def metrics(self, step: int, **values: float) -> None:
        assert all(np.isfinite(list(values.values())))

    def artifact(self, path: Path) -> None:
        assert path.exists()


@contextmanager
def recorded(*_: Any, **__: Any) -> Iterator[Recorder]:
    yield Recorder()


def use_toy_world() -> None:
    """Put the toy world, and no MLflow, under both stages."""
    deid.tracking.tracked_run = recorded  # type: ignore[assignment]
    for module in (stage_one_module, stage_two_module):
        module.load_world = lambda _: toy_world()  # type: ignore[attr-defined]


def train_one(root: Path, out: str, params: StageOneParams = ONE) -> Path:
    train_stage_one(params, WorldParams(), root / "latents", root / out)
    return root / out


def train_two(root: Path, out: str, params: StageTwoParams = TWO) -> Path:
    train_stage_two(params, WorldParams(), root / "latents", root / "one", root / out)
    return root / out


def changed_params(base: Any, changes: dict[str, Any]) -> Any:
    """`base` with `changes`, validated."""
    return type(base).model_validate(base.model_dump() | changes)


def _watched(step: Any, root: Path, out: str, fails: tuple[int, int, str] | None) -> Any:
    """`step`, which writes down its losses and fails where it shall."""

    def watched(stage: StageOne | StageTwo, index: int) -> Any:
        rank = stage.fabric.global_rank
        if fails and fails[0] in (rank, -1) and fails[1] == index:
            if fails[2] == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(f"no space left for process {rank}")
        losses = step(stage, index)
        with (root / f"{out}.{rank}.jsonl").open("a") as file:
            file.write(json.dumps({"step": index, "pid": os.getpid()} | losses) + "\n")
        return losses

    return watched


def main() -> None:
    root, jobs = Path(sys.argv[1]), [json.loads(text) for text in sys.argv[2:]]
    use_toy_world()
    steps = StageOne.step, StageTwo.step
    for job in jobs:
        out = job["out"]

        @contextmanager
        def tracked_run(*_: Any, name: str = out, **__: Any) -> Iterator[Recorder]:
            with (root / f"{name}.run").open("a") as file:
                file.write(f"{os.getpid()}\n")
            yield Recorder()

        deid.tracking.tracked_run = tracked_run  # type: ignore[assignment]
        StageOne.step = _watched(steps[0], root, out, job.get("fails"))  # type: ignore[method-assign]
        StageTwo.step = _watched(steps[1], root, out, job.get("fails"))  # type: ignore[method-assign]
        if job["stage"] == "one":
            train_one(root, out, changed_params(ONE, job["params"]))
        else:
            train_two(root, out, changed_params(TWO, job["params"]))


if __name__ == "__main__":
    main()
