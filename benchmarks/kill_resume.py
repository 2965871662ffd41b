"""Kill a batch again and again, let it go on, compare with one that nobody disturbed.

`python benchmarks/kill_resume.py`, from the project's root: 500 pictures, 20 kills (SIGKILL of the
command, whose workers are left to notice by themselves), at moments drawn over the whole batch,
some while the networks are still loading. Prints the verdict; exit code 1 where a byte differs.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from deid.audit.seal import LEDGER, SEAL
from deid.batch.manifest import Records
from deid.storage.local import LocalStorage
from deid.storage.protocol import PRIVATE

SAMPLES = Path("data/samples")
TELL_WHEN = (LEDGER, SEAL)  # times, and what is signed over them


def main() -> None:
    """Print one line a kill and the verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--method", default="mask")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    moments = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as scratch:
        source, whole, killed = (Path(scratch, name) for name in ("in", "whole", "killed"))
        make_pictures(source, args.files)
        command = [sys.executable, "-m", "deid.cli", "run", str(source)]
        options = ["--world", "mini", "--method", args.method, "--jobs", str(args.jobs)]
        options += ["--allow-no-face", "--rendered"]
        start = time.monotonic()
        subprocess.run([*command, str(whole), *options], check=True, stderr=subprocess.DEVNULL)
        print(f"undisturbed: {time.monotonic() - start:.0f} s")
        for kill in range(args.kills):
            enough = int(args.files * (kill + moments.random()) / (args.kills + 1))
            early = moments.random() < 0.15
            one_kill([*command, str(killed), *options], killed, 0 if early else enough, moments)
        subprocess.run([*command, str(killed), *options], check=True, stderr=subprocess.DEVNULL)
        sys.exit(verdict(contents(whole), contents(killed), killed, args))


def make_pictures(folder: Path, count: int) -> None:
    """Pictures of the samples, no two alike."""
    folder.mkdir()
    samples = [Image.open(path).convert("RGB") for path in sorted(SAMPLES.glob("*.png"))]
    for number in range(count):
        rng = np.random.default_rng(number)
        pixels = np.asarray(samples[number % len(samples)].resize((160, 120)), np.int16)
        noisy = (pixels + rng.integers(-6, 7, pixels.shape)).clip(0, 255).astype(np.uint8)
        place = folder / f"{number % 13:02d}" / f"{number:04d}.{('png', 'jpg')[number % 2]}"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(noisy).save(place)


def one_kill(command: list[str], folder: Path, enough: int, moments: random.Random) -> None:
    """Start the batch and kill it once so many outputs are there, and a little later."""
    batch = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while batch.poll() is None and outputs(folder) < enough:
        time.sleep(0.002)
    time.sleep(moments.uniform(0, 0.2) if enough else moments.uniform(0, 8))
    batch.kill()
    code = batch.wait()
    print(f"killed at {outputs(folder)} outputs{'' if code else ' (it had ended)'}", flush=True)


def outputs(folder: Path) -> int:
    return sum(1 for _ in folder.glob("*/*.*")) if folder.exists() else 0


def contents(folder: Path) -> dict[str, bytes]:
    storage = LocalStorage(folder)
    names = (n for n in storage.list() if not n.startswith(PRIVATE) and n not in TELL_WHEN)
    return {name: storage.read(name) for name in names}


def verdict(
    whole: dict[str, bytes], killed: dict[str, bytes], folder: Path, args: argparse.Namespace
) -> int:
    differing = sorted(n for n in whole.keys() | killed.keys() if whole.get(n) != killed.get(n))
    records = sum(1 for _ in Records(LocalStorage(folder)).all())
    lost = args.files - records
    print(f"{len(whole)} files compared, {records} records of {args.files} inputs")
    same = not differing and not lost
    print("SAME BYTES" if same else f"DIFFERENT: {differing[:10]}; {lost} inputs without a record")
    return 0 if same else 1


if __name__ == "__main__":
    main()
