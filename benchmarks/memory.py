"""Peak memory of sampling, training and evaluating, by batch size.

    python -m benchmarks.memory                                     # the world of params.yaml
    python -m benchmarks.memory --params profiles/ffhq.yaml --batch 1 2 4

Each part runs in a process of its own, on pairs drawn for it and, after stage one, on untrained
models; a training takes three steps, so that all its kinds (same-face with R1, cross-face) and the
optimizers' own state are in it. "tensors" is the most that tensors held at one time, weights
included: on a GPU as CUDA's allocator counts it, on a CPU by torch's profiler, which sees no
workspace of a convolution. "process" is the peak of the resident set; on a GPU it is left out.
Several batch sizes also give the straight line through them. With `--assets` the networks of ffhq
are filled from the test fixtures instead of public files: memory does not depend on their values.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from deid.params import Params, load_params

if TYPE_CHECKING:
    from deid.worlds.world import World

PARTS = ("sample", "stage_one", "stage_two", "evaluate")
PAIRS = 8
MIB = 2**20


def main() -> None:
    """Print a line for each part and batch size, and a line through each part's."""
    args = _arguments()
    if args.measure:
        _measure(args.measure, Path(args.folder), args)
        return
    with tempfile.TemporaryDirectory() as folder:
        _run("prepare", folder, [])
        for part in args.only:
            sizes = args.batch or [_batch_size(part, _params(args))]
            rows = [json.loads(_run(part, folder, ["--batch", str(size)])) for size in sizes]
            if len(rows) > 1:
                slope, fixed = np.polyfit(sizes, [row["tensors_mib"] for row in rows], 1)
                print(f"{part}: {fixed:.0f} MiB + {slope:.0f} MiB a face", flush=True)


def _run(part: str, folder: str, more: list[str]) -> str:
    """This program again, for one part; what it printed."""
    words = ["-m", "benchmarks.memory", *sys.argv[1:], "--measure", part, "--folder", folder]
    done = subprocess.run([sys.executable, *words, *more], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    print(done.stdout, end="", flush=True)
    return done.stdout


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--assets", type=Path, help="a folder with the test fixtures")
    parser.add_argument("--batch", type=int, nargs="+", help="faces at a time")
    parser.add_argument("--accumulate", type=int, help="micro-batches a step")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"))
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--measure", choices=("prepare", *PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def _params(args: argparse.Namespace) -> Params:
    params = load_params(args.params).model_dump(by_alias=True)
    asked = {"accumulate": args.accumulate, "precision": args.precision, "devices": 1}
    for stage in ("stage_one", "stage_two"):
        params[stage] |= {name: value for name, value in asked.items() if value is not None}
    for part in PARTS if args.batch else ():
        params[part]["batch_size"] = args.batch[0]
    params["anonymize"]["pgd_steps"] = 1  # each step needs what the first does
    return Params.model_validate(params)


def _batch_size(part: str, params: Params) -> int:
    size: int = getattr(params, part).batch_size
    return size


def _loader(args: argparse.Namespace, folder: Path) -> "Callable[[], World]":
    """What loads the world; also in another process."""
    from deid.worlds import load_world

    if args.assets is None:
        return partial(load_world, _params(args).world)
    from tests.test_ffhq import recipe_world

    return partial(recipe_world, folder / "weights")


def _prepare(folder: Path, args: argparse.Namespace) -> None:
    """Draw pairs and save both stages, untrained; what this needs counts for no part."""
    from deid.latents.sample import sample_from
    from deid.params import SampleParams
    from deid.training.stage_one import StageOne
    from deid.training.stage_two import StageTwo

    if args.assets is not None:
        from tests.test_ffhq import write_files

        (folder / "weights").mkdir()
        write_files(args.assets, folder / "weights")
    params, load = _params(args), _loader(args, folder)
    few = SampleParams(count=PAIRS, shard_size=PAIRS, batch_size=4, workers=1)
    sample_from(few, load, folder / "latents")
    world = load()
    one = StageOne(params.stage_one, world, folder / "latents")
    widths = {"mapping_widths": list(params.stage_one.mapping_widths)}
    one.model.save_stage_one(folder / "stage_one", {"config": widths})
    two = StageTwo(params.stage_two, world, folder / "latents", folder / "stage_one")
    config = {"adversarial_widths": list(params.stage_two.adversarial_widths)}
    config |= {"delta": params.stage_two.delta}
    about = {"config": config, "stage_one_sha256": two.stage_one_sha256}
    two.model.save_stage_two(folder / "stage_two", about)


def _measure(part: str, folder: Path, args: argparse.Namespace) -> None:
    """Run a part on as little as shows its peak; print what it needed. In a fresh process."""
    from deid.training.processes import peak_memory

    params = _params(args)
    if part == "prepare":
        _prepare(folder, args)
        return
    work, device = _work(part, folder, params, _loader(args, folder)())
    found: dict[str, float] = {}
    with _counted(found):
        work()
    stage = getattr(params, part)
    said = {
        "part": part,
        "world": params.world.name,
        "device": str(device),
        "batch_size": stage.batch_size,
        "accumulate": getattr(stage, "accumulate", 1),
        "precision": getattr(stage, "precision", "32-true"),
        **{name: round(value) for name, value in found.items()},
    }
    if device.type == "cpu":
        said["process_mib"] = round(peak_memory(device))
    print(json.dumps(said))


def _work(
    part: str, folder: Path, params: Params, world: "World"
) -> tuple[Callable[[], object], torch.device]:
    """What a part does, ready to begin, and the device on which it will."""
    from deid.anonymize import ModelPaths
    from deid.evaluate.run import evaluate_world
    from deid.latents.sample import draw_rows
    from deid.training.stage_one import StageOne
    from deid.training.stage_two import StageTwo

    if part == "sample":
        return lambda: list(draw_rows(world, params.sample, 0, _batch_size(part, params))), (
            world.device
        )
    models = ModelPaths(folder / "stage_one", folder / "stage_two")
    if part == "evaluate":
        people = {"identities": max(2, params.evaluate.batch_size), "views": 1, "seeds": 1}
        few = params.evaluate.model_copy(update=people)
        out = folder / "reports"
        return lambda: evaluate_world(few, params.anonymize, world, models, out), world.device
    stage: StageOne | StageTwo
    if part == "stage_one":
        stage = StageOne(params.stage_one, world, folder / "latents")
    else:
        stage = StageTwo(params.stage_two, world, folder / "latents", models.stage_one)
    return lambda: [stage.step(index) for index in range(3)], stage.fabric.device


@contextmanager
def _counted(found: dict[str, float]) -> Iterator[None]:
    """Fills `found`: what tensors hold at the beginning, and the most they hold in the block."""
    if torch.cuda.is_available():
        found["weights_mib"] = torch.cuda.memory_allocated() / MIB
        yield
        found["tensors_mib"] = torch.cuda.max_memory_allocated() / MIB
        return
    from torch.profiler import ProfilerActivity, profile

    found["weights_mib"] = held = _held() / MIB
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    found["tensors_mib"] = held + max(np.cumsum([size for _, size in changes])) / MIB


def _held() -> int:
    """Bytes of all tensors there are, each memory once."""
    gc.collect()
    storages = {
        thing.untyped_storage().data_ptr(): thing.untyped_storage().nbytes()
        for thing in gc.get_objects()
        if issubclass(type(thing), torch.Tensor)  # isinstance would wake lazy modules
    }
    return sum(storages.values())


if __name__ == "__main__":
    main()
