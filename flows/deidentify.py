"""De-identify a folder or an `s3://` prefix into another one: `deid run`, on a schedule.

The champion of the registry draws the faces; where nothing is registered, the stages that come with
deid, or those in `data`. All else is as `deid run` does it, in the same code: what was done before
is not done again, what was quarantined is not tried again, an interrupted run resumes. Prefect sees
a task for each shard of files, which is tried again, later each time, when a storage fails.
"""

import hashlib
import sys
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

from prefect import State, flow, get_run_logger, runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.states import Completed
from prefect.tasks import exponential_backoff
from pydantic import Field

from deid.batch.cluster import shards_of
from deid.batch.executor import Executor
from deid.batch.manifest import RunInfo
from deid.batch.outcome import Outcome, Task
from deid.batch.project import run_project
from deid.batch.settings import BatchSettings
from deid.batch.summary import Summary
from deid.errors import DeidError
from deid.registry.choice import Chosen, chosen, model_name
from deid.registry.promotion import champion_version
from deid.registry.versions import CHAMPION
from deid.storage.protocol import StorageFailure
from deid.tracking import store_exists
from flows.form import parsed, settings_from, with_settings

RETRIES, FIRST_PAUSE = 3, 10  # of a shard; seconds before the first retry, doubled for each further
MOST_FAILED = 3  # shards in a row, after which to continue is of no use
MOST_STARTS = 5  # of one flow run: one that ends its process each time must not do so for ever
FINISHED = "deid.batch.finished"
QUARANTINED = "Quarantined"  # the name of the state of a completed run that left pictures out


class Shard:
    """Some files of a batch, known by their content: the same files are the same shard again."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.left = {item.name: item for item in tasks}  # of which no outcome came yet
        marks = "\n".join(f"{item.name} {item.version}" for item in tasks)
        self.name = hashlib.sha256(marks.encode()).hexdigest()[:12]


def _is_of_the_storage(_task: Any, _run: Any, state: State[Any]) -> bool:
    return isinstance(state.data and state.result(raise_on_failure=False), StorageFailure)


def _shard_name() -> str:
    shard: Shard = runtime.task_run.parameters["shard"]
    return f"shard-{shard.name}"


@task(
    task_run_name=_shard_name,
    retries=RETRIES,
    retry_delay_seconds=exponential_backoff(FIRST_PAUSE),
    retry_jitter_factor=0.5,
    retry_condition_fn=_is_of_the_storage,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def deidentify_shard(executor: Executor, shard: Shard) -> Generator[Outcome, None, None]:
    """The outcomes of a shard; of another attempt, those that are missing."""
    try:
        for outcome in executor.work(iter(list(shard.left.values()))):
            shard.left.pop(outcome.line["file"], None)
            yield outcome
    except StorageFailure:
        executor.__exit__(None, None, None)  # what was at work may be in any state
        executor.__enter__()
        raise


class ByShard:
    """An executor whose work is a Prefect task for each shard. One that fails leaves the others
    alone; once they are done, it is an error."""

    def __init__(self, executor: Executor, size: int) -> None:
        self._executor, self._size = executor, size

    @property
    def info(self) -> RunInfo:
        return self._executor.info

    def __enter__(self) -> Self:
        self._executor.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._executor.__exit__(kind, error, trace)

    def work(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """See `Executor`."""
        count, failures, in_a_row = 0, list[DeidError](), 0
        for shard in shards_of(tasks, self._size):
            count += 1
            try:
                yield from deidentify_shard(self._executor, Shard(shard))
                in_a_row = 0
            except StorageFailure as error:
                failures.append(error)
                in_a_row += 1
                if in_a_row == MOST_FAILED:
                    break
        if failures:
            raise DeidError(
                f"{len(failures)} of {count} shards failed; run it again to resume; the first: "
                f"{failures[0]}"
            )


@flow(name="deidentify")
@with_settings
def deidentify(
    source: Annotated[str, Field(description="A picture or folder, or s3://BUCKET/PREFIX.")],
    destination: Annotated[str, Field(description="A folder or s3://BUCKET/PREFIX.")],
    model: Annotated[
        str | None,
        Field(
            description="champion, challenger, previous, a version's number, shipped, local or a "
            "model's folder; else the champion, or what `deid run` takes where there is none."
        ),
    ] = None,
    world: Annotated[str | None, Field(description="photo, mini or ffhq.")] = None,
    **options: Any,
) -> Any:
    """De-identify `source` into `destination`; returns how many inputs ended in which state.

    Raises `DeidError` when the destination holds the source, when the source is not there, when
    another run is at work at the destination, or, after all others are done, when a shard failed:
    run it again to resume.
    """
    if (starts := runtime.flow_run.run_count or 0) > MOST_STARTS:
        raise DeidError(f"this flow run was started {starts} times and never ended; see its logs")
    asked, batch = settings_from(options)
    drawn_by = _chosen(model, world)
    get_run_logger().info(f"model: {drawn_by.name}, content {drawn_by.content_sha256[:12]}")
    summary = run_project(
        source,
        destination,
        asked,
        batch,
        drawn_by.bundle,
        around=lambda executor: ByShard(executor, _files_of_a_task(batch)),
        may_be_empty=True,
    )
    _report(destination, drawn_by, summary)
    counts = dict(+summary.counts)
    if summary.failed:
        return Completed(name=QUARANTINED, message=_first_line(summary), data=counts)
    return Completed(message=_first_line(summary), data=counts)


def _files_of_a_task(batch: BatchSettings) -> int:
    """A shard for each process, and for a cluster, which hands them out itself, several."""
    return batch.shard_size * batch.jobs * (8 if batch.engine == "ray" else 1)


def _chosen(model: str | None, world: str | None) -> Chosen:
    root = Path.cwd()
    name = model_name(root)
    if model is None and world is None and store_exists() and champion_version(name) is not None:
        model = CHAMPION
    return chosen(model, name, root, world)


def _first_line(summary: Summary) -> str:
    return summary.text().splitlines()[0]


def _report(destination: str, drawn_by: Chosen, summary: Summary) -> None:
    """What became of the batch: to the log, as an artifact, and as an event."""
    counts = dict(+summary.counts)
    rows = [f"| {status} | {count} |" for status, count in sorted(counts.items())]
    told = [f"- {text}" for text in (*summary.problems, *summary.lost, *summary.notes)]
    told.append(f"- model: {drawn_by.name}, content {drawn_by.content_sha256}")
    text = "\n".join([f"# {destination}", "", "| files | |", "|---|---|", *rows, "", *told])
    create_markdown_artifact(key="deidentified", markdown=text, description=_first_line(summary))
    emit_event(
        FINISHED,
        resource={"prefect.resource.id": f"deid.destination.{destination}"},
        payload={"counts": counts, "model": drawn_by.name, "content": drawn_by.content_sha256},
    )
    get_run_logger().info(summary.text())


if __name__ == "__main__":
    try:
        ended = deidentify(**vars(parsed(deidentify.fn)))
    except DeidError as error:
        sys.exit(f"deidentify: {error}")
    sys.exit(1 if ended.get("quarantined") else 0)
