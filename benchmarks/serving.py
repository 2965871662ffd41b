"""What `deid serve` costs and holds: load, overload, memory, and what batches give.

    python -m benchmarks.serving                    # load at 1 to 32 at once, and overload
    python -m benchmarks.serving --memory 10000     # so many requests: does memory stay flat?
    python -m benchmarks.serving --batching         # --batch 8 and 16 against 1, 16 at once
    python -m benchmarks.serving --bytes            # what rounding in batches changes in outputs
    python -m benchmarks.serving --bytes --world photo

Server and client share one machine; so figures of one run compare with each other, not with those
of another machine. The picture is one rendered face of 96 pixels, which is masked: what a request
costs beside the networks. Batches are tried with a blur, too, whose result is judged.
"""

import argparse
import asyncio
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil
import torch
from PIL import Image

from deid.batch.in_memory import Refused, Result, deidentify_bytes
from deid.batch.project import Pipelines, bundle_at
from deid.batch.settings import RunSettings
from deid.serve.together import each, join
from deid.serve.work import networks_of

ROOT = Path(__file__).resolve().parents[1]
AT_ONCE = (1, 2, 4, 8, 16, 32)
SIDE = 96
ROUNDS, FACES, WIDTH = 3, 64, 480
PNG = {"content-type": "image/png"}


def small_picture() -> bytes:
    """One rendered face."""
    stored = io.BytesIO()
    with Image.open(ROOT / "data/samples/portrait.png") as image:
        image.convert("RGB").resize((SIDE, SIDE)).save(stored, "PNG")
    return stored.getvalue()


@contextmanager
def server(jobs: int, queue: int, *options: str) -> Iterator[tuple[str, psutil.Process, Path]]:
    """Its address, process and log, once it is ready."""
    command = [str(Path(sys.executable).with_name("deid")), "serve", "--world", "mini"]
    command += ["--rendered", "--method", "mask", "--detect-size", str(SIDE), "--port", "0"]
    command += ["--jobs", str(jobs), "--queue", str(queue), *options]
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


async def load(
    url: str, data: bytes, at_once: int, count: int, method: str = "mask"
) -> tuple[list[float], list[int]]:
    """Seconds and statuses of `count` requests, `at_once` of them at a time."""
    seconds: list[float] = []
    statuses: list[int] = []
    left, path = iter(range(count)), f"/v1/anonymize?method={method}"
    limits = httpx.Limits(max_connections=at_once)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=300) as client:

        async def ask() -> None:
            for _ in left:
                began = time.perf_counter()
                answer = await client.post(path, content=data, headers=PNG)
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


@dataclass
class Batched:
    """A server with a `--batch`, and what it answered in all rounds so far."""

    batch: int
    url: str
    process: psutil.Process
    seconds: list[float] = field(default_factory=list)
    wall: float = 0.0
    work: float = 0.0  # processor seconds of its worker

    def round(self, method: str, count: int) -> None:
        """`count` more requests, 16 at once."""
        (worker,) = (p for p in self.process.children() if "spawn_main" in " ".join(p.cmdline()))
        before, began = sum(worker.cpu_times()[:2]), time.perf_counter()
        seconds, statuses = asyncio.run(load(self.url, small_picture(), 16, count, method))
        self.wall += time.perf_counter() - began
        self.work += sum(worker.cpu_times()[:2]) - before
        assert set(statuses) == {200}, statuses
        self.seconds += seconds


def batching(count: int) -> None:
    """One worker with `--batch` 1, 8 and 16, at 16 requests at once, in turns of `count`."""
    with ExitStack() as stack:
        servers = []
        for batch in (1, 8, 16):
            url, process, _ = stack.enter_context(server(1, 64, "--batch", str(batch)))
            servers.append(Batched(batch, url, process))
        for method in ("mask", "blur"):
            for one in servers:
                one.round(method, 32)  # it is warm then
                one.seconds, one.wall, one.work = [], 0.0, 0.0
            for _ in range(ROUNDS):
                for one in servers:
                    one.round(method, count)
            print(f"{method}: batch | requests/s (ratio) | worker's ms each | p50 p95 p99 ms | MiB")
            for one in servers:
                print(line(one, servers[0]), flush=True)


def line(one: Batched, first: Batched) -> str:
    """Its row, with ratios to the `first`."""
    rate, least = (len(s.seconds) / s.wall for s in (one, first))
    cuts = statistics.quantiles(one.seconds, n=100)
    times = " ".join(f"{1000 * cuts[at - 1]:.0f}" for at in (50, 95, 99))
    held, own = sum(memory(one.process)), 1000 * one.work / len(one.seconds)
    return f"{one.batch:2d} | {rate:6.1f} ({rate / least:.2f}) | {own:.1f} | {times} | {held:.0f}"


def rounding(world_name: str) -> None:
    """What is other in outputs that were made eight together than alone, and what each takes."""
    torch.set_num_threads(1)
    pipelines = Pipelines(bundle_at(ROOT, world_name))
    mini = world_name == "mini"
    pictures = rendered(pipelines) if mini else photographs()
    methods = ("mask", "blur", "pixelate", "pgd") if mini else ("mask", "blur", "swap")
    side = 144 if mini else WIDTH

    def make(task: tuple[str, bytes]) -> Result | None:
        asked = RunSettings(method=task[0], rendered=mini, detect_size=side)
        try:
            return deidentify_bytes(pipelines.get(asked), task[1], "a")
        except Refused:
            return None

    def made(method: str, at_once: int) -> tuple[list[Result | None], float]:
        tasks = [(method, data) for data in pictures]
        make(tasks[0])
        began = time.process_time()
        groups = [tasks[i : i + at_once] for i in range(0, len(tasks), at_once)]
        results = [result for group in groups for result in each(make, group)]
        return results, (time.process_time() - began) / len(tasks)

    alone = {method: made(method, 1) for method in methods}
    for network in networks_of(pipelines.world):
        join(network)
    for method, (before, apart) in alone.items():
        after, together = made(method, 8)
        ratio = f"{1000 * apart:.0f} ms each alone, {apart / together:.2f} times as fast together"
        print(f"{world_name}, {method}: {differences(before, after)}; {ratio}", flush=True)


def rendered(pipelines: Pipelines) -> list[bytes]:
    """Faces that no training has seen, with room around them."""
    faces = pipelines.world.test_faces(FACES, 1, 0).pixels
    return [encoded(np.pad(face, ((40, 40), (40, 40), (0, 0)), mode="edge")) for face in faces]


def photographs() -> list[bytes]:
    """One of three faces, shifted, all of one size, so that looking for faces meets, too."""
    with Image.open(ROOT / "data/photo/samples/friends.jpg") as image:
        whole = image.convert("RGB").resize((WIDTH + 32, 2 * WIDTH // 5))
    shifted = (whole.crop((left, 0, left + WIDTH, whole.height)) for left in (0, 11, 22, 32))
    return [encoded(np.asarray(picture)) for picture in shifted]


def differences(before: list[Result | None], after: list[Result | None]) -> str:
    """Of pictures made alone from those made in batches, in words."""
    same, pixels, most, verdicts = 0, [], 0, 0
    for one, other in zip(before, after, strict=True):
        if one is None or other is None:
            verdicts += one is not other
            continue
        verdicts += [f.method for f in one.faces] != [f.method for f in other.faces]
        same += one.data == other.data
        apart = np.abs(one.pixels.astype(int) - other.pixels)
        pixels.append(float(apart.any(-1).mean()))
        most = max(most, int(apart.max()))
    return (
        f"{len(pixels)} pictures, {same} with the same bytes, {verdicts} with other levels; else "
        f"{np.sum(pixels) / max(1, len(pixels) - same):.3%} of the pixels differ, by {most} at most"
    )


def encoded(pixels: np.ndarray) -> bytes:
    """As PNG."""
    stored = io.BytesIO()
    Image.fromarray(pixels).save(stored, "PNG")
    return stored.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="requests of each measurement")
    parser.add_argument("--jobs", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--memory", type=int, help="only this, with so many requests")
    parser.add_argument("--batching", action="store_true", help="only this")
    parser.add_argument("--bytes", action="store_true", help="only this")
    parser.add_argument("--world", default="mini")
    asked = parser.parse_args()
    if asked.memory:
        flat(asked.memory)
    elif asked.batching:
        batching(asked.count)
    elif asked.bytes:
        rounding(asked.world)
    else:
        for jobs in asked.jobs:
            table(jobs, asked.count)
        overload(asked.count)


if __name__ == "__main__":
    main()
