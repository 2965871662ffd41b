"""What `deid serve` costs and holds: load, overload, memory, and what batching networks would give.

    python -m benchmarks.serving                    # load at 1 to 32 at once, and overload
    python -m benchmarks.serving --memory 10000     # so many requests: does memory stay flat?
    python -m benchmarks.serving --batching         # networks at 16 pictures a call against one
    python -m benchmarks.serving --batching --world photo

Server and client share one machine; so figures of one run compare with each other, not with those
of another machine. The picture is one rendered face of 96 pixels, which is masked: what a request
costs beside the networks.
"""

import argparse
import asyncio
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import psutil
import torch
from PIL import Image

from deid.batch.in_memory import deidentify_bytes
from deid.batch.project import Pipelines, bundle_at
from deid.batch.settings import RunSettings
from deid.errors import DeidError

ROOT = Path(__file__).resolve().parents[1]
AT_ONCE = (1, 2, 4, 8, 16, 32)
SIDE = 96
PNG = {"content-type": "image/png"}


def small_picture() -> bytes:
    """One rendered face."""
    stored = io.BytesIO()
    with Image.open(ROOT / "data/samples/portrait.png") as image:
        image.convert("RGB").resize((SIDE, SIDE)).save(stored, "PNG")
    return stored.getvalue()


@contextmanager
def server(jobs: int, queue: int) -> Iterator[tuple[str, psutil.Process, Path]]:
    """Its address, process and log, once it is ready."""
    command = [str(Path(sys.executable).with_name("deid")), "serve", "--world", "mini"]
    command += ["--rendered", "--method", "mask", "--detect-size", str(SIDE), "--port", "0"]
    command += ["--jobs", str(jobs), "--queue", str(queue)]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(command, stderr=out, cwd=folder)
        try:
            yield _address(log, process), psutil.Process(process.pid), log
        finally:
            process.terminate()
            process.wait(120)


def _address(log: Path, process: "subprocess.Popen[bytes]") -> str:
    while True:
        assert process.poll() is None, log.read_text()
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
        said = {line["message"]: line for line in lines}
        if "listening" in said and "model" in said:
            return str(said["listening"]["url"])
        time.sleep(0.5)


def memory(process: psutil.Process) -> tuple[float, float]:
    """Of the server, and of its workers together: MiB that no other process shares."""
    own, *workers = (
        one.memory_full_info().uss / 2**20 for one in [process, *process.children(recursive=True)]
    )
    return own, sum(workers)


async def load(url: str, data: bytes, at_once: int, count: int) -> tuple[list[float], list[int]]:
    """Seconds and statuses of `count` requests, `at_once` of them at a time."""
    seconds: list[float] = []
    statuses: list[int] = []
    left = iter(range(count))
    limits = httpx.Limits(max_connections=at_once)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=300) as client:

        async def ask() -> None:
            for _ in left:
                began = time.perf_counter()
                answer = await client.post("/v1/anonymize", content=data, headers=PNG)
                seconds.append(time.perf_counter() - began)
                statuses.append(answer.status_code)

        await asyncio.gather(*(ask() for _ in range(at_once)))
    return seconds, statuses


def table(jobs: int, count: int) -> None:
    """Throughput and times at each concurrency, as ratios to one request at a time."""
    data = small_picture()
    with server(jobs, queue=64) as (url, process, _):
        asyncio.run(load(url, data, 1, 10))
        first = None
        print(f"jobs {jobs}: at once | requests/s (ratio) | p50 p95 p99 ms | MiB")
        for at_once in AT_ONCE:
            began = time.perf_counter()
            seconds, statuses = asyncio.run(load(url, data, at_once, count))
            rate = count / (time.perf_counter() - began)
            first = first or rate
            assert set(statuses) == {200}, statuses
            cuts = statistics.quantiles(seconds, n=100)
            times = " ".join(f"{1000 * cuts[at - 1]:.0f}" for at in (50, 95, 99))
            held = sum(memory(process))
            print(f"{at_once:3d} | {rate:6.1f} ({rate / first:.2f}) | {times} | {held:.0f}")


async def knock(url: str, data: bytes, count: int, every: float) -> list[float]:
    """Seconds of those of `count` requests that are refused, one each `every` seconds, while others
    keep the queue full, who wait a fifth of a second when they are refused."""
    refused: list[float] = []
    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=300) as client:

        async def fill() -> None:
            while True:
                answer = await client.post("/v1/anonymize", content=data, headers=PNG)
                await asyncio.sleep(0.2 if answer.status_code == 503 else 0)

        async def ask() -> None:
            began = time.perf_counter()
            answer = await client.post("/v1/anonymize", content=data, headers=PNG)
            if answer.status_code == 503:
                refused.append(time.perf_counter() - began)

        others = [asyncio.create_task(fill()) for _ in range(8)]
        await asyncio.sleep(1)
        asking = []
        for _ in range(count):
            asking.append(asyncio.create_task(ask()))
            await asyncio.sleep(every)
        await asyncio.gather(*asking)
        for other in others:
            other.cancel()
    return refused


def spread(seconds: list[float]) -> str:
    """In ms."""
    cuts = statistics.quantiles(seconds, n=100)
    within = sum(second <= 0.1 for second in seconds) / len(seconds)
    times = ", ".join(f"p{at} {1000 * cuts[at - 1]:.1f}" for at in (50, 95, 99))
    return f"{len(seconds)}: {times} ms, {within:.1%} within 100 ms"


def overload(count: int) -> None:
    """How soon is told no who finds the queue full."""
    data = small_picture()
    with server(jobs=1, queue=4) as (url, _, log):
        asyncio.run(load(url, data, 1, 10))
        print("overload, room for 5; one request each 50 ms refused,", end=" ")
        print(spread(asyncio.run(knock(url, data, count, 0.05))))
        seconds, statuses = asyncio.run(load(url, data, 24, count))
        refused = [s for s, status in zip(seconds, statuses, strict=True) if status == 503]
        print(
            f"24 at once, who ask again at once: {statuses.count(200)} answered, refused", end=" "
        )
        print(spread(refused))
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        own = [line["ms"] / 1000 for line in lines if line.get("code") == "overloaded"]
        print("in the service itself, from head to answer,", spread(own))
        _, after = asyncio.run(load(url, data, 1, 20))
        assert after == [200] * 20, "it does not recover"


def flat(count: int) -> None:
    """Memory along `count` requests."""
    data = small_picture()
    with server(jobs=1, queue=64) as (url, process, _):
        asyncio.run(load(url, data, 4, 200))
        for part in range(11):
            own, workers = memory(process)
            began = time.perf_counter()
            print(f"after {part * count // 10:6d}: {own:.1f} MiB, worker {workers:.1f}", end="")
            if part < 10:
                _, statuses = asyncio.run(load(url, data, 4, count // 10))
                assert set(statuses) == {200}
            print(f"  {time.perf_counter() - began:.0f} s", flush=True)


def batching(world_name: str) -> None:
    """What micro-batching could give at best: each network at 16 pictures a call, against one."""
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    torch.set_num_threads(threads)
    pipelines = Pipelines(bundle_at(ROOT, world_name))
    world = pipelines.world
    components = pipelines.get(
        RunSettings(method="blur", rendered=True, detect_size=640)
    ).components
    verifier = components.verifier
    crop = np.asarray(Image.open(io.BytesIO(small_picture())).resize((verifier.side,) * 2))
    square = np.array([[0.35, 0.4], [0.65, 0.4], [0.5, 0.6], [0.4, 0.75], [0.6, 0.75]])
    points = square * verifier.side

    def judges(n: int) -> object:
        return verifier.embed(np.repeat(crop[None], n, 0), np.repeat(points[None], n, 0))

    def draw(n: int) -> object:
        with torch.no_grad():
            return world.generator.synthesis(world.generator.w_mean.expand(n, -1))

    def landmarks(n: int) -> object:
        with torch.no_grad():
            return components.landmarks(torch.zeros(n, 3, *(components.landmark_side,) * 2))

    for name, work in (("judges", judges), ("landmarks", landmarks), ("generator", draw)):
        one, many = (best(partial(work, n), n) for n in (1, 16))
        print(
            f"{world_name}, {threads} thread: {name}: {1000 * one:.1f} ms a face alone, "
            f"{1000 * many:.1f} ms in 16: {one / many:.2f} times"
        )
    sample = {"mini": "data/samples/pair.png", "photo": "data/photo/samples/friends.jpg"}
    picture = np.asarray(Image.open(ROOT / sample[world_name]).convert("RGB"))
    look = components.detector.detect
    one, many = (best(partial(look, [picture] * n), n) for n in (1, 4))
    print(f"{world_name}: one look for faces {one:.2f} s alone, {many:.2f} s in 4")
    share(pipelines, (ROOT / sample[world_name]).read_bytes(), one)


def share(pipelines: Pipelines, data: bytes, look: float) -> None:
    """How much of a request is looking for faces, twice, which differs in size from picture to
    picture."""
    for method in ("blur", "swap"):
        try:
            pipeline = pipelines.get(RunSettings(method=method, rendered=True, detect_size=640))
        except DeidError:
            continue
        whole = best(partial(deidentify_bytes, pipeline, data, "a"), 1)
        print(f"{method}: {whole:.2f} s a picture, of which {2 * look / whole:.0%} look for faces")


def best(work: Callable[[], object], faces: int) -> float:
    """Seconds a face, the best of several."""
    work()
    times = []
    for _ in range(3):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times) / faces


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="requests of each measurement")
    parser.add_argument("--jobs", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--memory", type=int, help="only this, with so many requests")
    parser.add_argument("--batching", action="store_true", help="only this")
    parser.add_argument("--world", default="mini")
    asked = parser.parse_args()
    if asked.memory:
        flat(asked.memory)
    elif asked.batching:
        batching(asked.world)
    else:
        for jobs in asked.jobs:
            table(jobs, asked.count)
        overload(asked.count)


if __name__ == "__main__":
    main()
