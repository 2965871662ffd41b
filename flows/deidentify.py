"""De-identify a folder or an `s3://` prefix into another one, shard by shard.

The champion of the registry does it; where nothing is registered, the models in `data`. What was
done before under the same settings is not done again; a shard that fails leaves the others alone.
"""

import sys
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow, get_run_logger, task, unmapped
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner

from deid.errors import DeidError
from deid.params import load_params
from deid.storage import S3_SCHEME, open_storage, overlap

if TYPE_CHECKING:
    from deid.photo.run import RunSettings, Workshop
    from deid.serve.bundle import Bundle
    from flows.batch import Line, Task

_mine = threading.local()


@dataclass(frozen=True)
class Request:
    """What a batch was asked to do, and with which networks: a promotion midway changes nothing."""

    source: str
    destination: str
    asked: "RunSettings"
    bundle: "Bundle"
    content: str  # hash of the bundle: equal paths may hold other networks by now


@task(cache_policy=NO_CACHE)
def plan_shards(request: Request, shard_size: int) -> "tuple[list[list[Task]], int]":
    """Shards of at most `shard_size` inputs that are still to do, and how many are done."""
    from flows.batch import plan

    source, destination = open_storage(request.source), open_storage(request.destination)
    todo, done = plan(source, destination, _workshop(request).fingerprint)
    return [todo[i : i + shard_size] for i in range(0, len(todo), shard_size)], done


@task(retries=2, retry_delay_seconds=5, cache_policy=NO_CACHE)
def deidentify_shard(request: Request, tasks: "list[Task]") -> "list[Line]":
    """One shard, from its originals to its lines of the manifest."""
    from flows.batch import run_shard

    source, destination = open_storage(request.source), open_storage(request.destination)
    return run_shard(source, destination, tasks, _workshop(request))


_threads: Any = ThreadPoolTaskRunner(max_workers=2)


@flow(name="deidentify", task_runner=_threads)
def deidentify(
    source: str,
    destination: str,
    method: str = "swap",
    seed: int = 0,
    detectors: tuple[str, ...] = (),
    recognisers: tuple[str, ...] = (),
    allow_no_face: bool = False,
    shard_size: int = 64,
) -> dict[str, int]:
    """De-identify `source` into `destination`; returns how many inputs ended in which state.

    Either is a folder or `s3://bucket/prefix`. Raises `DeidError` when they overlap, when the
    source is not there, or, after all others are done, when a shard failed: run it again to go on.
    """
    from deid.photo.run import RunSettings
    from flows.batch import merge

    if overlap(source, destination):
        raise DeidError(f"{destination}: overlaps the originals in {source}; choose another place")
    if not source.startswith(S3_SCHEME) and not Path(source).is_dir():
        raise DeidError(f"{source}: no such folder; correct the path")
    asked = RunSettings(
        method=method,
        seed=seed,
        detectors=tuple(detectors),
        recognisers=tuple(recognisers),
        allow_no_face=allow_no_face,
    )
    request = _request(source, destination, asked)
    shards, done = plan_shards(request, shard_size)
    futures = deidentify_shard.map(unmapped(request), shards)
    futures.wait()
    results: list[Any] = [future.result(raise_on_failure=False) for future in futures]
    merge(open_storage(destination))
    failures = [result for result in results if isinstance(result, BaseException)]
    lines = [line for result in results if isinstance(result, list) for line in result]
    counts = Counter(str(line["status"]) for line in lines) + Counter(done=done)
    _report(request, counts, lines, failures)
    if failures:
        raise DeidError(
            f"{len(failures)} of {len(shards)} shards failed; run it again to go on; "
            f"the first: {failures[0]}"
        )
    return dict(counts)


def _request(source: str, destination: str, asked: "RunSettings") -> Request:
    from deid.serve.bundle import content_sha256, local_bundle
    from deid.serve.registry import champion_bundle

    params = load_params()
    bundle = champion_bundle(params.register_.model) or local_bundle(params)
    return Request(source, destination, asked, bundle, content_sha256(bundle))


def _workshop(request: Request) -> "Workshop":
    """One set of networks a thread: not every detector may be shared."""
    if getattr(_mine, "request", None) != request:
        from deid.serve.bundle import open_workshop

        _mine.workshop, _mine.request = open_workshop(request.bundle, request.asked), request
    workshop: Workshop = _mine.workshop
    return workshop


def _report(
    request: Request, counts: Counter[str], lines: "list[Line]", failures: list[BaseException]
) -> None:
    withheld = [line for line in lines if line["status"] == "quarantined"]
    rows = [f"| {status} | {count} |" for status, count in sorted(counts.items())]
    problems = [f"- {line['file']}: {line['reason']}" for line in withheld[:50]]
    problems += [f"- a shard failed: {failure}" for failure in failures]
    text = "\n".join(
        [f"# {request.destination}", "", "| files | |", "|---|---|", *rows, "", *problems]
    )
    create_markdown_artifact(key="deidentified", markdown=text, description=request.asked.method)
    get_run_logger().info(", ".join(f"{count} {status}" for status, count in counts.items()))


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(prog="python -m flows.deidentify", description=__doc__)
    parser.add_argument("source", help="folder or s3://bucket/prefix")
    parser.add_argument("destination", help="folder or s3://bucket/prefix")
    parser.add_argument("--method", default="swap")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--allow-no-face", action="store_true")
    parser.add_argument("--shard-size", type=int, default=64)
    try:
        ended = deidentify(**vars(parser.parse_args()))
    except DeidError as error:
        sys.exit(f"deidentify: {error}")
    sys.exit(1 if ended.get("quarantined") else 0)
