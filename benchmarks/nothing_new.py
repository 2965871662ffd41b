"""What a run costs that has nothing to do: `python benchmarks/nothing_new.py`.

100,000 inputs, their outputs and their records are laid out as a batch leaves them (one picture is
made by a real batch, the others are copies of its files and record under names of their own). Then
`deid run` is called on them; printed are its wall time, the processor time of it and its worker,
the largest resident memory of both together, and the load of the machine.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
from PIL import Image

from deid.audit.seal import seal
from deid.batch.manifest import Records
from deid.batch.plan import list_inputs, locate

FOLDER = 1000  # files in each


def main() -> None:
    """Print seconds and MiB of the first run, of one picture, and of those with nothing new."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        source, out = Path(scratch, "in"), Path(scratch, "out")
        make_one(source)
        tell("one picture", run(source, out))
        copy(source, out, args.files)
        for attempt in ("first", "second"):
            tell(f"{attempt} run with nothing new", run(source, out))


def tell(what: str, cost: tuple[float, float, float, str]) -> None:
    seconds, cpu, memory, said = cost
    load = os.getloadavg()[0]
    print(f"{what}: {seconds:.1f} s ({cpu:.1f} of processors), {memory:.0f} MiB, load {load:.1f}")
    print(f"  {said}", flush=True)


def make_one(source: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    (source / "000").mkdir(parents=True)
    Image.fromarray(pixels).save(source / "000/00000.png")


def copy(source: Path, out: Path, files: int) -> None:
    """The other inputs, outputs and records, sealed as a batch seals them."""
    first, made = (source / "000/00000.png").read_bytes(), (out / "000/00000.png").read_bytes()
    for number in range(1, files):
        name = f"{number // FOLDER:03d}/{number:05d}.png"
        for root, data in ((source, first), (out, made)):
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_bytes(data)
    places = locate(str(source), str(out))
    records, versions = Records(places.audit), places.destination.list()
    line = records.last("000/00000.png")
    assert line is not None
    for name, version in list_inputs(places).files.items():
        records.append(line | {"file": name, "output": name}, (version, versions[name]))
    sealed = seal(list(records.all()), places.destination.read, None)
    for name, data in sealed.items():
        places.audit.write(name, data)
    records.settle()


def run(source: Path, out: Path) -> tuple[float, float, float, str]:
    """Seconds by the clock and of processors, MiB of all processes, and the summary."""
    command = [sys.executable, "-m", "deid.cli", "run", str(source), str(out), "--world", "mini"]
    options = ["--method", "mask", "--allow-no-face", "--rendered"]
    began, before, most = time.monotonic(), processors(), 0.0
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            time.sleep(0.1)
            try:
                family = [watched, *watched.children(recursive=True)]
                most = max(most, sum(member.memory_info().rss for member in family) / 2**20)
            except psutil.Error:
                continue
        assert process.stdout is not None
        said = process.stdout.readline().strip()
    return time.monotonic() - began, processors() - before, most, said


def processors() -> float:
    """Seconds that ended children, and theirs, took of processors."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
