"""Training at scale: two real processes, micro-batches and bfloat16 reach what one process reaches.

The processes talk over loopback (gloo), launched as a person would, by a command or by torchrun.
"""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from deid.errors import DeidError
from deid.params import StageOneParams, load_params
from deid.training import stage_one as stage_one_module
from deid.training import stage_two as stage_two_module
from deid.training.processes import processes_for, start_fabric
from deid.training.stage_one import StageOne
from deid.training.stage_two import StageTwo
from tests.conftest import ROOT
from tests.toy import draw_pairs, toy_world
from tests.toy_training import (
    ONE,
    TWO,
    Recorder,
    changed_params,
    recorded,
    train_one,
    train_two,
)

STEPS, KILLED_AT = 14, 7
SHORT = {"steps": STEPS, "checkpoint_every": 5}
PAIR = SHORT | {"devices": 2}
WARM = {"warm_steps": 9, "mapping_steps": 5, "mapping_batch_size": 8, "warm_batch_size": 4}
ONE_SHORT, TWO_SHORT = changed_params(ONE, SHORT), changed_params(TWO, SHORT)
NEAR = 1e-5
"""Of a loss's value, in all steps: float error, as Adam carries it on."""

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
Job = dict[str, Any]


def command(root: Path, *jobs: Job) -> list[str]:
    return ["-m", "tests.toy_training", str(root), *(json.dumps(job) for job in jobs)]


def launched(words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with `words` on the CPU; the time limit is the test for a hang."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words],
        env=env | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def succeed(words: list[str]) -> None:
    done = launched(words)
    assert done.returncode == 0, done.stderr[-3000:]


def steps_of(root: Path, out: str, rank: int) -> list[dict[str, float]]:
    """Each step's losses, as the process `rank` of the training `out` had them."""
    return [json.loads(line) for line in (root / f"{out}.{rank}.jsonl").read_text().splitlines()]


def pids(root: Path, out: str) -> set[int]:
    """Of every process of the training `out`."""
    return {int(steps_of(root, out, rank)[0]["pid"]) for rank in (0, 1)}


def losses(stage: StageOne | StageTwo, count: int = STEPS) -> list[dict[str, float]]:
    return [stage.step(index) for index in range(count)]


def assert_near(found: list[dict[str, float]], wanted: list[dict[str, float]], near: float) -> None:
    assert len(found) == len(wanted)
    for index, (mine, theirs) in enumerate(zip(found, wanted, strict=True)):
        mine = {name: value for name, value in mine.items() if name not in ("step", "pid")}
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            assert mine[name] == pytest.approx(value, rel=near, abs=near), (index, name)


def assert_near_weights(folder: Path, wanted: Path, near: float) -> None:
    mine, theirs = (load_file(f / "model.safetensors") for f in (folder, wanted))
    assert mine.keys() == theirs.keys()
    moved = max(float((mine[name] - theirs[name]).abs().max()) for name in theirs)
    assert moved < near


def assert_same_files(folder: Path, wanted: Path) -> None:
    assert {p.name for p in folder.iterdir()} == {p.name for p in wanted.iterdir()}
    for path in folder.iterdir():
        assert path.read_bytes() == (wanted / path.name).read_bytes(), path.name


def stage_one(root: Path, **changes: Any) -> StageOne:
    return StageOne(changed_params(ONE_SHORT, changes), toy_world(), root / "latents")


def stage_two(root: Path, **changes: Any) -> StageTwo:
    params = changed_params(TWO_SHORT, changes)
    return StageTwo(params, toy_world(), root / "latents", root / "one")


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deid.tracking.tracked_run", recorded)
    for module in (stage_one_module, stage_two_module):
        monkeypatch.setattr(module, "load_world", lambda _: toy_world())


def interrupted(root: Path, out: str) -> None:
    """A training of stage one on one process, stopped after the checkpoint at five steps."""
    with pytest.MonkeyPatch.context() as patch:
        step = StageOne.step

        def failing(self: StageOne, index: int) -> dict[str, float]:
            if index == KILLED_AT:
                raise OSError("stopped")
            return step(self, index)

        patch.setattr(StageOne, "step", failing)
        with pytest.raises(OSError, match="stopped"):
            train_one(root, out, ONE_SHORT)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stages trained by one process (`one`, `two`) and by two (`one-pair`, `two-pair`), and
    a training that one process began and two ended (`grown`)."""
    root = tmp_path_factory.mktemp("scale")
    draw_pairs(root / "latents")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deid.tracking.tracked_run", recorded)
        for module in (stage_one_module, stage_two_module):
            patch.setattr(module, "load_world", lambda _: toy_world())
        told: dict[str, float] = {}
        patch.setattr(Recorder, "metrics", lambda self, step, **values: told.update(values))
        train_one(root, "one", ONE_SHORT)
        (root / "one.metrics.json").write_text(json.dumps(told))
        train_two(root, "two", TWO_SHORT)
        interrupted(root, "grown")
    jobs: list[Job] = [
        {"stage": "one", "out": "one-pair", "params": PAIR},
        {"stage": "two", "out": "two-pair", "params": PAIR | {"accumulate": 2}},
        {"stage": "one", "out": "warm-pair", "params": PAIR | WARM},
        {"stage": "one", "out": "grown", "params": PAIR},
    ]
    succeed(command(root, *jobs))
    return root


def test_two_processes_have_the_losses_of_one(root: Path) -> None:
    wanted = {
        "one-pair": losses(stage_one(root)),
        "two-pair": losses(stage_two(root)),
        "warm-pair": losses(stage_one(root, **WARM)),
    }
    assert {"discriminator", "r1", "adversarial", "reconstruct"} <= wanted["one-pair"][0].keys()
    for out, values in wanted.items():
        first, second = steps_of(root, out, 0), steps_of(root, out, 1)
        assert_near(first, values, NEAR)
        assert_near(second, values, NEAR)
        assert len(pids(root, out)) == 2
    assert_near_weights(root / "one-pair", root / "one", 1e-3)
    assert_near_weights(root / "two-pair", root / "two", 1e-3)


def test_one_process_owns_run_and_files(root: Path) -> None:
    assert (root / "one-pair.run").read_text().split() == [
        str(int(steps_of(root, "one-pair", 0)[0]["pid"]))
    ]
    names = {"model.safetensors", "model.json", "losses.csv", "losses.png", "sheet.png"}
    assert {p.name for p in (root / "one-pair").iterdir()} == names
    about = (root / "one-pair/model.json").read_text()
    assert "devices" not in about  # nor anything else that does not shape the result
    assert (
        json.loads(about)["params"] == json.loads((root / "one/model.json").read_text())["params"]
    )


@pytest.mark.parametrize("accumulate", [2, 4])
def test_micro_batches_have_the_losses_of_the_whole_batch(root: Path, accumulate: int) -> None:
    assert_near(losses(stage_one(root, accumulate=accumulate)), losses(stage_one(root)), NEAR)
    assert_near(losses(stage_two(root, accumulate=accumulate)), losses(stage_two(root)), NEAR)


def test_micro_batches_draw_fewer_pictures_at_once(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    generator = toy_world().generator
    synthesis = generator.synthesis

    def counting(w: Any) -> Any:
        drawn.append(len(w))
        return synthesis(w)

    monkeypatch.setattr(generator, "synthesis", counting)
    stage_one(root, accumulate=2).step(0)
    stage_two(root, accumulate=4).step(0)
    assert drawn == [2] * 2 + [1] * 8  # stage two also draws the reconstruction


def test_what_one_process_began_two_end(root: Path) -> None:
    assert [step["step"] for step in steps_of(root, "grown", 1)] == [*range(5, STEPS)]
    assert_near_weights(root / "grown", root / "one", 1e-3)


def test_two_killed_processes_go_on_together_and_one_can_take_over(root: Path) -> None:
    """They go on under torchrun, which starts the processes as well as the launcher does."""
    job: Job = {"stage": "one", "out": "killed", "params": PAIR}
    killed = launched(command(root, job | {"fails": [-1, KILLED_AT, "killed"]}))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (root / "killed").exists()
    assert (root / "killed.partial/checkpoint.pt").is_file()
    shutil.copytree(root / "killed.partial", root / "shrunk.partial")

    succeed([*TORCHRUN, *command(root, job)])
    assert_same_files(root / "killed", root / "one-pair")
    steps = [step["step"] for step in steps_of(root, "killed", 0)]
    assert steps == [*range(KILLED_AT), *range(5, STEPS)]
    train_one(root, "shrunk", ONE_SHORT)
    assert_near_weights(root / "shrunk", root / "one", 1e-3)
    assert not (root / "shrunk.partial").exists()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(("rank", "how"), [(0, "killed"), (1, "raises")])
def test_a_process_that_fails_ends_all(root: Path, rank: int, how: str) -> None:
    out = f"failed-{rank}-{how}"
    job: Job = {"stage": "one", "out": out, "params": PAIR, "fails": [rank, 3, how]}
    done = launched(command(root, job))
    assert done.returncode != 0
    assert "another process of this training ended" in done.stderr
    if how == "raises":
        assert f"no space left for process {rank}" in done.stderr
    assert not (root / out).exists()
    deadline = time.monotonic() + 30
    while not all(gone(pid) for pid in pids(root, out)):
        assert time.monotonic() < deadline, "a process is left over"
        time.sleep(0.1)


def test_another_number_of_processes_than_devices_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DeidError, match=r"started 2 processes, but devices is 1 .*make them equal"):
        start_fabric(ONE)


@pytest.mark.parametrize(("there", "started"), [(1, 1), (2, 2), (3, 2), (4, 4), (64, 4)])
def test_a_machine_with_fewer_processors_starts_fewer_processes_with_equal_shares(
    there: int, started: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("os.cpu_count", lambda: there)
    assert processes_for(changed_params(ONE, {"devices": 4})) == started


def test_a_batch_that_cannot_be_shared_equally_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("stage_two: {batch_size: 16, devices: 2, accumulate: 3}")
    with pytest.raises(DeidError, match=r"stage_two\.batch_size: .*multiple of .* 6 \(is 16\)"):
        load_params(path)
    path.write_text("stage_two: {batch_size: 12, devices: 2, accumulate: 3}")
    assert load_params(path).stage_two.batch_size == 12


def test_how_a_training_is_spread_is_no_part_of_what_it_is_known_by() -> None:
    spread = StageOneParams(devices=4, strategy="ddp", accumulate=2)
    assert spread.recipe() == StageOneParams().recipe()
    assert StageOneParams(seed=1).recipe() != StageOneParams().recipe()


@pytest.mark.parametrize("make", [stage_one, stage_two])
def test_bfloat16_stays_near_float32(root: Path, make: Any) -> None:
    exact, rough = losses(make(root), 8), losses(make(root, precision="bf16-mixed"), 8)
    assert_near(rough, exact, 0.03)
    assert rough != exact  # it was bfloat16 indeed
    assert all(math.isfinite(value) for step in rough for value in step.values())


def test_the_peak_of_memory_goes_to_the_run_not_to_the_description(root: Path) -> None:
    told = json.loads((root / "one.metrics.json").read_text())
    assert 50 < told["peak_memory_mib"] < 100_000
    assert "memory" not in (root / "one/model.json").read_text()
