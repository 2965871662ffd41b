"""What a hundred million pictures would take: `python benchmarks/scale_plan.py`.

    python benchmarks/scale_plan.py FOLDER --method swap --world photo       measures on those
    python benchmarks/scale_plan.py FOLDER … --pictures 1e8 --cores 1024 --preempted-per-hour 0.05

Measured here, on this machine: seconds of a core for each picture of FOLDER (every one alone, so
that slow ones count; processor time, so that other work on the machine counts less), bytes read and
written, bytes of record, seconds to load the networks. All
else is a simulation: processes take shards, some are taken away with the shard they are at, and
start again elsewhere. Prices are parameters, and what is printed says which were taken.
"""

import argparse
import heapq
import json
import random
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

JOURNAL = ".deid/manifest.journal.jsonl"
PER_LIST, PER_CONDITION = 1000, 3  # names a page; requests for a picture: GET, HEAD, PUT


@dataclass(frozen=True)
class Cost:
    """Of a picture, measured."""

    seconds: tuple[float, ...]
    start: float  # seconds to load the networks, with the first picture
    read: float  # bytes
    written: float
    record: float


def main() -> None:
    """Print the measured costs, then the plan."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("data/samples"))
    parser.add_argument("--method", default="mask")
    parser.add_argument("--world", default="mini")
    parser.add_argument("--option", action="append", default=[], help="further ones of deid run")
    parser.add_argument("--pictures", type=float, default=1e8)
    parser.add_argument("--cores", type=int, default=1024)
    parser.add_argument("--shard", type=int, default=64)
    parser.add_argument("--prefix", type=int, default=100_000, help="pictures in a run")
    parser.add_argument("--preempted-per-hour", type=float, default=0.05)
    parser.add_argument("--core-hour", type=float, default=0.04, help="dollars")
    parser.add_argument("--per-1000-put", type=float, default=0.005, help="dollars, LIST too")
    parser.add_argument("--per-1000-get", type=float, default=0.0004, help="dollars")
    args = parser.parse_args()
    cost = measure(args.folder, args.method, args.world, args.option)
    print_cost(cost, args.folder, args.method, args.world)
    print_plan(cost, args)


def measure(folder: Path, method: str, world: str, options: list[str]) -> Cost:
    """By a real batch of one process, whose processor time is read as each record comes: what else
    the machine does falls on the clock, not on that."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "out")
        command = [sys.executable, "-m", "deid.cli", "run", str(folder), str(out)]
        options = ["--method", method, "--world", world, "--allow-no-face", *options]
        options += ["--timeout", "3600"]  # by the clock, of which a busy machine takes more
        journal, times, start, last, seen = out / JOURNAL, list[float](), 0.0, 0.0, 0
        with subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL) as process:
            while process.poll() is None:
                time.sleep(0.005)
                lines = journal.read_bytes().count(b"\n") if journal.is_file() else 0
                if lines > seen and (now := spent(process.pid)):
                    times += [(now - last) / (lines - seen)] * (lines - seen) if seen else []
                    start, last, seen = start or now, now, lines
        made = [json.loads(x) for x in (out / "manifest.jsonl").read_text().splitlines()]
        written = [out / line["output"] for line in made if line["status"] == "written"]
        if len(times) < 2 or len(written) < len(made):
            sys.exit(
                f"{folder}: {len(written)} of {len(made)} pictures written; nothing to measure"
            )
        return Cost(
            tuple(times),
            start,
            sum((folder / line["file"]).stat().st_size for line in made) / len(made),
            sum(file.stat().st_size for file in written) / max(1, len(written)),
            (out / "manifest.jsonl").stat().st_size / len(made),
        )


def spent(pid: int) -> float:
    """Seconds of processor time of a process and its children; 0 where it has just ended."""
    with suppress(psutil.Error):
        run = psutil.Process(pid)
        every = [one.cpu_times() for one in (run, *run.children(recursive=True))]
        return float(sum(one.user + one.system for one in every))
    return 0.0


def print_cost(cost: Cost, folder: Path, method: str, world: str) -> None:
    times = sorted(cost.seconds)
    mean = sum(times) / len(times)
    print(f"measured: {len(times)} pictures of {folder}, {method}, world {world}, one process")
    print(
        f"  a picture {mean:.3f} s (median {times[len(times) // 2]:.3f}, slowest {times[-1]:.3f})"
    )
    print(f"  start and first picture {cost.start:.1f} s")
    print(f"  read {cost.read / 1e3:.0f} kB, written {cost.written / 1e3:.0f} kB, ", end="")
    print(f"record {cost.record / 1e3:.2f} kB")


def print_plan(cost: Cost, args: argparse.Namespace) -> None:
    count, runs = args.pictures, args.pictures / args.prefix
    hours, redone, restarts = simulate(cost, args)
    core_hours = hours * args.cores
    puts = count + count / PER_LIST * 2  # source and destination
    gets = count * (PER_CONDITION - 1)
    dollars = core_hours * args.core_hour + puts / 1e3 * args.per_1000_put
    dollars += gets / 1e3 * args.per_1000_get
    rate = count / (hours * 3600)
    print(f"simulated: {count:.0f} pictures, {args.cores} cores, shards of {args.shard}")
    print(f"  {hours:.1f} hours, {core_hours:.0f} core-hours, {rate:.0f} pictures/s")
    print(f"  {restarts:.0f} processes taken away; {redone:.2%} of pictures done again")
    print(
        f"  {rate * PER_CONDITION:.0f} requests/s; read {rate * cost.read / 1e6:.0f} MB/s, ", end=""
    )
    print(f"written {rate * cost.written / 1e6:.0f} MB/s")
    print(f"  {runs:.0f} runs of {args.prefix}, each with a manifest of ", end="")
    print(f"{args.prefix * cost.record / 1e6:.0f} MB; {count * cost.record / 1e9:.0f} GB in all")
    print(
        f"  {dollars:.0f} dollars at {args.core_hour} a core-hour, {args.per_1000_put} a 1,000 PUT"
    )
    print(f"  or LIST, {args.per_1000_get} a 1,000 GET")


def simulate(cost: Cost, args: argparse.Namespace) -> tuple[float, float, float]:
    """Hours, share of pictures done again, processes taken away: a 64th of the shards on a
    64th of the cores (at least 16), so that it takes seconds; shards are drawn from what was
    measured."""
    rng = random.Random(0)
    cores = max(16, args.cores // 64)
    shards = int(args.pictures / args.shard * cores / args.cores)
    mean = sum(cost.seconds) / len(cost.seconds)
    lost = restarts = 0
    free = [cost.start] * cores
    left = min(shards, 200_000)
    scale = shards / left
    while left > 0:
        now = heapq.heappop(free)
        work = sum(rng.choice(cost.seconds) for _ in range(args.shard))
        until = rng.expovariate(args.preempted_per_hour / 3600) if args.preempted_per_hour else 1e99
        if until < work:
            restarts += 1
            lost += int(until / mean)
            heapq.heappush(free, now + until + cost.start)
            continue
        left -= 1
        heapq.heappush(free, now + work)
    done = min(shards, 200_000) * args.shard
    return max(free) * scale / 3600, lost / done, restarts * scale * args.cores / cores


if __name__ == "__main__":
    main()
