"""Blur and mask of `deid run` against deface, in one run on the same pictures and cores.

    python -m venv DIR && DIR/bin/pip install deface onnx onnxruntime
    python -m benchmarks.throughput --assets ASSETS --deface DIR/bin/python

deface has an environment of its own, because it pins what this project does not. Both tools get
the same JPEG files (quality 75, which is what deface writes at; ours keeps what it finds), show
their detectors a picture of the same longer side, and use all cores: deface by threads, ours by a
process a core. 1280 px is the pictures' own size and what deface does by default.
Loading programs and networks is left out for both. The tools take turns, and medians count, so
that what else the machine does falls on both.

deface writes what it made and never looks at it again. Ours decodes each file it wrote, looks for
faces in it, has a recognizer compare each face before and after, and records all of it; that is its
job, so it is counted.
"""

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

WIDTH, HEIGHT = 1280, 720
WHAT = ("seconds", "cpu")

# Runs in deface's environment: the loop of its command line, timed without its imports.
DEFACE = """
import json, resource, sys, time
from pathlib import Path
from deface.centerface import CenterFace
from deface.deface import image_detect
source, out, size, method = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
net = CenterFace(in_shape=tuple(int(side) for side in size.split("x")))
files = sorted(source.iterdir())
def one(file):
    image_detect(str(file), str(out / file.name), net, threshold=0.2, replacewith=method,
                 mask_scale=1.3, ellipse=True, draw_scores=False, enable_preview=False,
                 keep_metadata=False)
one(files[0])
def spent():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
start, before = time.perf_counter(), spent()
for file in files:
    one(file)
print(json.dumps({"seconds": time.perf_counter() - start, "cpu": spent() - before}))
"""


def compose(portraits: Path, folder: Path, count: int, seed: int = 0) -> None:
    """`count` JPEG pictures of one to six people, 40 to 300 pixels large, on a soft background."""
    rng = np.random.default_rng(seed)
    files = sorted(portraits.glob("*.jpg"))
    folder.mkdir(parents=True)
    for number in range(count):
        noise = rng.integers(60, 200, (9, 16, 3), dtype=np.uint8)
        picture = Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        picture = picture.filter(ImageFilter.GaussianBlur(3))
        people = int(rng.integers(1, 7))
        for place in range(people):
            cell = WIDTH // people
            side = int(min(rng.integers(60, 420), cell))
            x = place * cell + int(rng.integers(0, cell - side + 1))
            y = int(rng.integers(0, HEIGHT - side + 1))
            with Image.open(files[int(rng.integers(len(files)))]) as face:
                picture.paste(face.convert("RGB").resize((side, side)), (x, y))
        picture.save(folder / f"{number:04d}.jpg", quality=75)


@contextmanager
def measured() -> Iterator[dict[str, float]]:
    """Seconds by the clock and of processor time, in this process and its finished children."""
    result: dict[str, float] = {}
    start, before = time.perf_counter(), _spent()
    yield result
    result |= {"seconds": time.perf_counter() - start, "cpu": _spent() - before}


def _spent() -> float:
    used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


DETECTORS = {
    "yunet": "face_detection_yunet_2023mar.onnx",
    "scrfd": "scrfd_2.5g_bnkps.onnx",
}


def ours(assets: Path, detector: str, size: int) -> Callable[[Path, Path, str], dict[str, float]]:
    """`deid run --jobs CORES` on a folder, without its start: a process a core, a thread each."""
    cores = len(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")

    def run(source: Path, out: Path, method: str) -> dict[str, float]:
        barrier, results = context.Barrier(cores), context.Queue()
        workers = []
        for n in range(cores):
            share = out / f"in{n}"
            share.mkdir(parents=True)
            for file in sorted(source.iterdir())[n::cores]:
                os.link(file, share / file.name)
            task = (assets, detector, size, method, share, out / f"out{n}", barrier, results)
            workers.append(context.Process(target=_work, args=task))
            workers[-1].start()
        measures = [results.get(timeout=600) for _ in workers]
        for worker in workers:
            worker.join()
        return {
            "seconds": max(m["seconds"] for m in measures),
            "cpu": sum(m["cpu"] for m in measures),
        }

    return run


def _work(
    assets: Path,
    detector: str,
    size: int,
    method: str,
    source: Path,
    out: Path,
    barrier: Any,
    results: Any,
) -> None:
    """One process: load, do a picture to warm up, wait for the others, do the share."""
    import cv2
    import torch

    from deid.batch.pipeline import build_pipeline
    from deid.batch.run import deidentify_path
    from deid.batch.settings import RunSettings
    from deid.params import WorldParams
    from deid.worlds import load_world

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    root, weights = Path(__file__).resolve().parent.parent, assets / "weights"
    settings = RunSettings(
        method=method,
        detectors=(f"{detector}={weights / DETECTORS[detector]}",),
        detect_size=size,
        recognizers=(f"foamliu={weights / 'foamliu_mobilefacenet.onnx'}",),
        allow_no_face=True,
    )
    world = load_world(WorldParams(weights=root / "data/mini/weights"))
    shop = build_pipeline(settings, world, None)
    deidentify_path(min(source.iterdir()), out / "first", shop)
    barrier.wait()
    with measured() as result:
        summary = deidentify_path(source, out / "all", shop)
    assert summary.counts["written"] == len(list(source.iterdir())), summary.text()
    results.put(result)


def deface(python: Path, source: Path, out: Path, size: int, method: str) -> dict[str, float]:
    """The same by deface."""
    shape = f"{size}x{size * HEIGHT // WIDTH}"
    replace = {"mask": "solid", "blur": "blur"}[method]
    command = [str(python), "-c", DEFACE, str(source), str(out), shape, replace]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"deface did not run: {done.stderr[-500:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Print images a second for both, and how many times as fast ours is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=Path, required=True, help="has photoreal/ and weights/")
    parser.add_argument("--deface", type=Path, required=True, help="Python that can import deface")
    parser.add_argument("--detector", nargs="+", default=list(DETECTORS), help="of ours")
    # Closing a batch takes as long whatever its size, which few pictures would have to bear.
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--size", type=int, nargs="+", default=[640, 1280], help="detector's side")
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many counts")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compose(args.assets / "photoreal", folder / "in", args.pictures)
        for size in args.size:
            for method in ("blur", "mask"):
                theirs: Figures = []
                own: dict[str, Figures] = {detector: [] for detector in args.detector}
                for _ in range(args.rounds):
                    out = _fresh(folder)
                    theirs.append(deface(args.deface, folder / "in", out, size, method))
                    for detector, figures in own.items():
                        run = ours(args.assets, detector, size)
                        figures.append(run(folder / "in", _fresh(folder), method))
                for detector, figures in own.items():
                    head = f"{method} with {detector}, detectors at {size} px"
                    _say(head, args.pictures, figures, theirs)


def _fresh(folder: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=folder))


Figures = list[dict[str, float]]


def _say(head: str, count: int, own: Figures, theirs: Figures) -> None:
    clock, cpu = ([median(one[what] for one in tool) for tool in (own, theirs)] for what in WHAT)
    print(
        f"{head}, {os.cpu_count()} cores: ours {count / clock[0]:.2f} images/s, deface "
        f"{count / clock[1]:.2f}, ratio {clock[1] / clock[0]:.2f}; processor time an image "
        f"{1000 * cpu[0] / count:.0f} ms and {1000 * cpu[1] / count:.0f} ms, "
        f"ratio {cpu[1] / cpu[0]:.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
