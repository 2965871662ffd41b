"""De-identify a folder or an `s3://` prefix into another one, shard by shard.

The champion of the registry does it; where nothing is registered, the models in `data`, or those
that come with deid. Each shard is done by the engine of `deid run`, in processes of its own. What
was done before under the same settings is not done again; a shard that fails leaves the others
alone.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task, unmapped
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner

from deid.batch.bundle import Bundle
from deid.batch.manifest import Records, open_journal
from deid.batch.pipeline import RunInfo
from deid.batch.plan import Locations, Plan, Todo, list_inputs, locate, make_plan, tasks_of
from deid.batch.project import bundle_at, open_pipeline
from deid.batch.run import exclusive, finalize, recorded
from deid.batch.settings import TIMEOUT, BatchSettings, RunSettings
from deid.batch.summary import Summary
from deid.batch.workers import ProcessPool
from deid.errors import DeidError
from deid.params import load_params
from deid.registry.bundle import content_sha256
from deid.registry.promotion import champion_bundle


@dataclass(frozen=True)
class Request:
    """What a batch was asked to do, and with which networks: a promotion midway changes nothing."""

    source: str
    destination: str
    asked: RunSettings
    batch: BatchSettings
    bundle: Bundle
    content: str  # hash of the bundle: equal paths may hold other networks by now

    def locations(self) -> Locations:
        """Opened anew for each thread."""
        return locate(self.source, self.destination, self.batch)

    def pool(self, locations: Locations) -> ProcessPool:
        """The engine of `deid run`."""
        open_ = partial(open_pipeline, self.bundle, self.asked)
        return ProcessPool(open_, locations, self.batch.jobs, self.batch.timeout)


@task(cache_policy=NO_CACHE)
def plan_batch(request: Request) -> tuple[Plan, RunInfo, Summary]:
    """What is to do, and a summary of all that is not."""
    locations = request.locations()
    inputs = list_inputs(locations, may_be_empty=True)
    with request.pool(locations) as executor:
        info = executor.info
    records = Records(locations.audit)
    plan = make_plan(locations, inputs, records, info)
    summary = Summary(request.destination, +Counter(done=plan.known), notes=info.notes)
    for outcome in recorded(iter(plan.refusals), records):
        summary.add(outcome)
    return plan, info, summary


@task(retries=2, retry_delay_seconds=5, cache_policy=NO_CACHE)
def deidentify_shard(request: Request, todo: Sequence[Todo]) -> Summary:
    """One shard, from its originals to its lines in the journal."""
    locations = request.locations()
    summary = Summary(request.destination)
    tasks = tasks_of(todo, Records(locations.audit))  # another attempt may have done some
    with request.pool(locations) as executor:
        for outcome in recorded(executor.work(tasks), open_journal(locations.audit)):
            summary.add(outcome)
    return summary


_threads: Any = ThreadPoolTaskRunner(max_workers=2)


@flow(name="deidentify", task_runner=_threads)
def deidentify(
    source: str,
    destination: str,
    method: str = "swap",
    seed: int = 0,
    detectors: Sequence[str] = (),
    recognizers: Sequence[str] = (),
    allow_no_face: bool = False,
    first_frame_only: bool = False,
    shard_size: int = 256,
    encryption: str | None = None,
    timeout: float = TIMEOUT,
    more: dict[str, Any] | None = None,
) -> dict[str, int]:
    """De-identify `source` into `destination`; returns how many inputs ended in which state.

    Either is a folder or `s3://bucket/prefix`; `encryption` is asked of S3 for new objects;
    `timeout` is in seconds for a file; `more` has further fields of `RunSettings` by name, such as
    `{"keep_metadata": ["icc"]}`. Raises `DeidError` when the destination holds the source, when the
    source is not there, or, after all others are done, when a shard failed: run it again to resume.
    """
    further = {k: tuple(v) if isinstance(v, list) else v for k, v in (more or {}).items()}
    shaping: dict[str, Any] = {
        "method": method,
        "seed": seed,
        "detectors": tuple(detectors),
        "recognizers": tuple(recognizers),
        "allow_no_face": allow_no_face,
        "first_frame_only": first_frame_only,
        **further,
    }
    if unknown := shaping.keys() - {field.name for field in fields(RunSettings)}:
        raise DeidError(f"more: {', '.join(sorted(unknown))}: no setting of a run; correct it")
    batch = BatchSettings(timeout=timeout, encryption=encryption)
    request = _request(source, destination, RunSettings(**shaping), batch)
    return dict(_run(request, shard_size).counts)


def _run(request: Request, shard_size: int) -> Summary:
    """Every shard; `DeidError` once all others are done where one failed."""
    with exclusive(request.locations()):
        plan, _, summary = plan_batch(request)
        shards = [plan.todo[i : i + shard_size] for i in range(0, len(plan.todo), shard_size)]
        futures = deidentify_shard.map(unmapped(request), shards)
        futures.wait()
        results: list[Any] = [future.result(raise_on_failure=False) for future in futures]
        locations = request.locations()
        finalize(locations, Records(locations.audit))
    failures = [result for result in results if isinstance(result, BaseException)]
    for result in results:
        if not isinstance(result, BaseException):
            summary.merge(result)
    _report(request, summary, failures)
    if failures:
        raise DeidError(
            f"{len(failures)} of {len(shards)} shards failed; run it again to resume; "
            f"the first: {failures[0]}"
        )
    if summary.counts.total() != plan.inputs:
        raise RuntimeError(f"{plan.inputs} inputs, but {dict(summary.counts)}")
    return summary


def _request(source: str, destination: str, asked: RunSettings, batch: BatchSettings) -> Request:
    params = load_params()
    bundle = champion_bundle(params.register_.model) or bundle_at(Path.cwd())
    return Request(source, destination, asked, batch, bundle, content_sha256(bundle))


def _report(request: Request, summary: Summary, failures: list[BaseException]) -> None:
    counts = summary.counts
    rows = [f"| {status} | {count} |" for status, count in sorted(counts.items())]
    told = [f"- {text}" for text in (*summary.problems, *summary.lost, *summary.notes)]
    told += [f"- a shard failed: {failure}" for failure in failures]
    text = "\n".join([f"# {request.destination}", "", "| files | |", "|---|---|", *rows, "", *told])
    create_markdown_artifact(key="deidentified", markdown=text, description=request.asked.method)
    get_run_logger().info(summary.text())


def _arguments(words: Sequence[str] | None = None) -> Namespace:
    parser = ArgumentParser(prog="python -m flows.deidentify", description=__doc__)
    parser.add_argument("source", help="folder or s3://bucket/prefix")
    parser.add_argument("destination", help="folder or s3://bucket/prefix")
    for field in (*fields(RunSettings), *fields(BatchSettings)):
        if field.name in NAMED:
            flags = field.metadata["options"] or (f"--{field.name.replace('_', '-')}",)
            action: dict[str, Any] = {"type": type(field.default)}
            if field.name == "encryption":
                action = {}
            elif field.default is False:
                action = {"action": "store_true"}
            elif field.default == ():
                action = {"action": "append"}
            default = list(field.default) if field.default == () else field.default
            parser.add_argument(
                *flags, dest=field.name, default=default, help=field.metadata["help"], **action
            )
    parser.add_argument("--shard-size", type=int, default=256)
    return parser.parse_args(words)


NAMED = frozenset(
    {"method", "seed", "detectors", "recognizers", "allow_no_face", "first_frame_only"}
    | {"encryption", "timeout"}
)
"""Settings that are parameters of the flow itself."""


if __name__ == "__main__":
    try:
        ended = deidentify(**vars(_arguments()))
    except DeidError as error:
        sys.exit(f"deidentify: {error}")
    sys.exit(1 if ended.get("quarantined") else 0)
