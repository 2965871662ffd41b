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
from deid.storage.local import S3_SCHEME, overlap

if TYPE_CHECKING:
    from deid.batch.batch import Places, Summary
    from deid.batch.outcome import Task
    from deid.batch.project import Bundle
    from deid.batch.run import RunSettings, Workshop

_mine = threading.local()


@dataclass(frozen=True)
class Request:
    """What a batch was asked to do, and with which networks: a promotion midway changes nothing."""

    source: str
    destination: str
    encryption: str | None
    asked: "RunSettings"
    bundle: "Bundle"
    content: str  # hash of the bundle: equal paths may hold other networks by now

    def places(self) -> "Places":
        """Opened anew for each thread."""
        from deid.batch.batch import locate

        return locate(self.source, self.destination, encryption=self.encryption)


@task(cache_policy=NO_CACHE)
def plan_shards(request: Request, shard_size: int) -> "tuple[list[list[Task]], Summary]":
    """Shards of at most `shard_size` inputs that are still to do, and a summary of the others."""
    from deid.batch.batch import Summary, plan, recorded
    from deid.batch.manifest import Records

    places, workshop = request.places(), _workshop(request)
    records = Records(places.audit)
    planned = plan(places, records, workshop.about)
    summary = Summary(request.destination, +Counter(done=planned.known), notes=workshop.notes)
    for outcome in recorded(iter(planned.refusals), records):
        summary.add(outcome)
    tasks = list(planned.tasks(records))
    return [tasks[i : i + shard_size] for i in range(0, len(tasks), shard_size)], summary


@task(retries=2, retry_delay_seconds=5, cache_policy=NO_CACHE)
def deidentify_shard(request: Request, tasks: "list[Task]") -> "Summary":
    """One shard, from its originals to its lines in the journal."""
    from deid.batch.batch import Summary, recorded
    from deid.batch.manifest import open_journal
    from deid.batch.workers import Inline

    places = request.places()
    with Inline(_workshop(request), places) as crew:
        summary = Summary(request.destination)
        for outcome in recorded(crew.work(iter(tasks)), open_journal(places.audit)):
            summary.add(outcome)
    return summary


_threads: Any = ThreadPoolTaskRunner(max_workers=2)


@flow(name="deidentify", task_runner=_threads)
def deidentify(
    source: str,
    destination: str,
    method: str = "swap",
    seed: int = 0,
    detectors: tuple[str, ...] = (),
    recognizers: tuple[str, ...] = (),
    allow_no_face: bool = False,
    shard_size: int = 64,
    encryption: str | None = None,
) -> dict[str, int]:
    """De-identify `source` into `destination`; returns how many inputs ended in which state.

    Either is a folder or `s3://bucket/prefix`; `encryption` is asked of S3 for new objects. Raises
    `DeidError` when they overlap, when the source is not there, or, after all others are done,
    when a shard failed: run it again to go on.
    """
    from deid.batch.batch import alone, close
    from deid.batch.manifest import Records
    from deid.batch.run import RunSettings

    if overlap(source, destination):
        raise DeidError(f"{destination}: overlaps the originals in {source}; choose another place")
    if not source.startswith(S3_SCHEME) and not Path(source).is_dir():
        raise DeidError(f"{source}: no such folder; correct the path")
    asked = RunSettings(
        method=method,
        seed=seed,
        detectors=tuple(detectors),
        recognizers=tuple(recognizers),
        allow_no_face=allow_no_face,
    )
    request = _request(source, destination, encryption, asked)
    places = request.places()
    with alone(places):
        shards, others = plan_shards(request, shard_size)
        futures = deidentify_shard.map(unmapped(request), shards)
        futures.wait()
        results: list[Any] = [future.result(raise_on_failure=False) for future in futures]
        close(places, Records(places.audit))
    failures = [result for result in results if isinstance(result, BaseException)]
    summaries = [others, *(r for r in results if not isinstance(r, BaseException))]
    counts = sum((summary.counts for summary in summaries), Counter[str]())
    _report(request, counts, [text for s in summaries for text in s.problems], failures)
    if failures:
        raise DeidError(
            f"{len(failures)} of {len(shards)} shards failed; run it again to go on; "
            f"the first: {failures[0]}"
        )
    expected = others.counts.total() + sum(map(len, shards))
    if counts.total() != expected:
        raise RuntimeError(f"{expected} inputs, but {dict(counts)}")
    return dict(counts)


def _request(
    source: str, destination: str, encryption: str | None, asked: "RunSettings"
) -> Request:
    from deid.batch.project import local_bundle
    from deid.registry.bundle import content_sha256
    from deid.registry.registry import champion_bundle

    params = load_params()
    bundle = champion_bundle(params.register_.model) or local_bundle(params)
    return Request(source, destination, encryption, asked, bundle, content_sha256(bundle))


def _workshop(request: Request) -> "Workshop":
    """One set of networks a thread: not every detector may be shared."""
    if getattr(_mine, "request", None) != request:
        from deid.batch.project import open_workshop

        _mine.workshop, _mine.request = open_workshop(request.bundle, request.asked), request
    workshop: Workshop = _mine.workshop
    return workshop


def _report(
    request: Request, counts: Counter[str], withheld: list[str], failures: list[BaseException]
) -> None:
    rows = [f"| {status} | {count} |" for status, count in sorted(counts.items())]
    problems = [f"- {text}" for text in withheld[:50]]
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
    parser.add_argument("--encryption", help="AES256, aws:kms or aws:kms:KEY-ID, asked of S3")
    try:
        ended = deidentify(**vars(parser.parse_args()))
    except DeidError as error:
        sys.exit(f"deidentify: {error}")
    sys.exit(1 if ended.get("quarantined") else 0)
