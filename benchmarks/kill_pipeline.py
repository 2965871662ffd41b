"""Whether a pipeline that is killed again and again ends like one that nobody disturbed.

    python benchmarks/kill_pipeline.py --kills 12

Two clones of this repository run a miniature `dvc repro`. In the second, DVC and everything it
started are killed with SIGKILL at random moments, and started again. Then latents, model weights,
figures and the registered content must be equal, byte for byte.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
SMALL = {
    "sample": {"count": 2000, "shard_size": 250, "workers": 2},
    "validate": {"images": 500},
    "stage_one": {"steps": 60, "batch_size": 8, "checkpoint_every": 10},
    "stage_two": {"steps": 40, "batch_size": 8, "checkpoint_every": 10},
    "anonymize": {"pgd_steps": 3},
    "evaluate": {"identities": 20, "views": 2, "seeds": 2},
}
RESULTS = (
    *("data/latents", "data/stage_one/model.safetensors", "data/stage_two/model.safetensors"),
    *("data/stage_one/losses.csv", "data/stage_two/losses.csv", "reports/metrics.json"),
)


def main() -> None:
    """Print where the kills fell and whether the results agree; exit code 1 if they do not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="deid-kill-") as scratch:
        calm, killed = clone(Path(scratch) / "calm"), clone(Path(scratch) / "killed")
        start = time.monotonic()
        finish(calm)
        duration = time.monotonic() - start
        chance = random.Random(args.seed)
        for n in range(args.kills):
            stage = kill_after(killed, chance.uniform(0.02, 0.5) * duration)
            print(f"kill {n + 1}: in {stage}", flush=True)
            if stage == "nothing":
                break
        finish(killed)
        one, other = results(calm), results(killed)
    for name, digest in one.items():
        print(f"{'same' if other[name] == digest else 'DIFFERS'}  {name}")
    sys.exit(one != other)


def clone(folder: Path) -> Path:
    """The project of the mini world, with small parameters, in a new clone."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    subprocess.run(["make", "project", "PROFILE=mini"], cwd=folder, check=True)
    file = folder / "profiles/mini.yaml"
    params = yaml.safe_load(file.read_text())
    for section, values in SMALL.items():
        params[section] |= values
    file.write_text(yaml.safe_dump(params, sort_keys=False))
    return folder / "profiles/mini"


def start_repro(folder: Path) -> "subprocess.Popen[bytes]":
    """`dvc repro` in a session of its own, so that all of it can be killed at once."""
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(folder),
        "DVC_NO_ANALYTICS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    log = (folder / "repro.log").open("ab")
    command = [sys.executable, "-m", "dvc", "repro"]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
    )


def finish(folder: Path) -> None:
    """Run to the end; an error shows the log."""
    if start_repro(folder).wait() != 0:
        raise SystemExit((folder / "repro.log").read_text()[-3000:])


def kill_after(folder: Path, seconds: float) -> str:
    """Start, kill everything after `seconds`, and say which stage it was in."""
    process = start_repro(folder)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        said = (folder / "repro.log").read_text(errors="replace")
        return said.rpartition("Running stage '")[2].partition("'")[0] or "start"
    return "nothing"


def results(folder: Path) -> dict[str, str]:
    """SHA-256 of every result, and the hash of what was registered."""
    files = [f for name in RESULTS for f in sorted((folder / name).rglob("*")) or [folder / name]]
    found = {
        str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in files
        if f.is_file()
    }
    registered = json.loads((folder / "data/registered.json").read_text())
    return found | {"registered content": registered["content_sha256"]}


if __name__ == "__main__":
    main()
