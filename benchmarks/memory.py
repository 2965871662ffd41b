"""Peak memory of a training step of each stage: `python benchmarks/memory.py --batch 16`.

Settings come from params.yaml where no option says otherwise. Each stage takes one step of each of
its kinds (same-face with R1, cross-face) in a process of its own, on pairs drawn for it and, for
stage two, on an untrained stage one. "loaded" is the peak before the first step. A step of several
devices needs on each what one device needs with that many times fewer faces.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from deid.params import Params, load_params

STAGES = ("stage_one", "stage_two")
PAIRS = 64


def main() -> None:
    """Print a line for each stage."""
    args = _arguments()
    if args.measure == "prepare":
        _prepare(Path(args.folder), _params(args))
        return
    if args.measure:
        _measure(args.measure, Path(args.folder), _params(args))
        return
    with tempfile.TemporaryDirectory() as folder:
        for stage in ("prepare", *STAGES):
            words = [sys.executable, __file__, "--measure", stage, "--folder", folder]
            done = subprocess.run([*words, *sys.argv[1:]], stdout=subprocess.PIPE, text=True)
            if done.returncode:
                sys.exit(done.returncode)
            print(done.stdout, end="", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--world", help="its name, instead of the one in the parameters")
    parser.add_argument("--batch", type=int, help="faces a step")
    parser.add_argument("--accumulate", type=int, help="micro-batches a step")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"))
    parser.add_argument("--measure", choices=("prepare", *STAGES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def _params(args: argparse.Namespace) -> Params:
    params = load_params(args.params).model_dump(by_alias=True)
    asked = {
        "batch_size": args.batch,
        "accumulate": args.accumulate,
        "precision": args.precision,
        "devices": 1,
    }
    for stage in STAGES:
        params[stage] |= {name: value for name, value in asked.items() if value is not None}
    if args.world:
        params["world"]["name"] = args.world
    return Params.model_validate(params)


def _prepare(folder: Path, params: Params) -> None:
    """Draw pairs and save a stage one, both in `folder`; what this needs counts for no stage."""
    from deid.latents.sample import sample
    from deid.params import SampleParams
    from deid.training.stage_one import StageOne
    from deid.worlds import load_world

    few = SampleParams(count=PAIRS, shard_size=PAIRS, batch_size=4, workers=1)
    sample(few, params.world, folder / "latents")
    stage = StageOne(params.stage_one, load_world(params.world), folder / "latents")
    config = {"mapping_widths": list(params.stage_one.mapping_widths)}
    stage.model.save_stage_one(folder / "stage_one", {"config": config})


def _measure(name: str, folder: Path, params: Params) -> None:
    """Take the steps of stage `name`; print what they needed. Runs in a fresh process."""
    from deid.training.processes import peak_memory
    from deid.training.stage_one import StageOne
    from deid.training.stage_two import StageTwo
    from deid.worlds import load_world

    world, latents = load_world(params.world), folder / "latents"
    stage: StageOne | StageTwo
    if name == "stage_one":
        stage = StageOne(params.stage_one, world, latents)
    else:
        stage = StageTwo(params.stage_two, world, latents, folder / "stage_one")
    device, settings = stage.fabric.device, stage.params
    loaded = peak_memory(device)
    for index in range(2):
        stage.step(index)
    said = {
        "stage": name,
        "world": world.name,
        "device": str(device),
        "batch_size": settings.batch_size,
        "accumulate": settings.accumulate,
        "precision": settings.precision,
        "loaded_mib": round(loaded),
        "peak_mib": round(peak_memory(device)),
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main()
