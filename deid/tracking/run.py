"""Runs in MLflow: one a stage, and a killed stage goes on in the run it began.

The stages of one `dvc repro` are children of one run.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from deid.tracking.lineage import PARENT, circumstances, enter_pipeline, log_inputs, sweep, usage
from deid.tracking.store import experiment_id, mlflow_client, one_try, store_errors

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

RUN_ID_FILE = "mlflow_run_id"
BATCH = 500  # metrics held back: SQLite takes as long for one as for a thousand
SECONDS_BETWEEN_BATCHES = 10.0


class Tracker:
    """An open run. Metrics are buffered; the end of the run writes what is left."""

    def __init__(self, client: "MlflowClient", run_id: str) -> None:
        self.run_id = run_id
        self._client = client
        self._waiting: list[Metric] = []
        self._written = time.monotonic()

    def metrics(self, step: int, **values: float) -> None:
        """Record `values` at `step`."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(name, float(v), now, step) for name, v in values.items()]
        late = time.monotonic() - self._written > SECONDS_BETWEEN_BATCHES
        if late or len(self._waiting) >= BATCH:
            self.flush()

    @store_errors()
    def artifact(self, path: Path) -> None:
        """Copy a file, or a folder under its own name, to the run's artifacts."""
        if path.is_dir():
            self._client.log_artifacts(self.run_id, str(path), artifact_path=path.name)
        else:
            self._client.log_artifact(self.run_id, str(path))

    @store_errors()
    def flush(self) -> None:
        """Write the buffered metrics now (a checkpoint is a good moment)."""
        for start in range(0, len(self._waiting), BATCH):
            self._client.log_batch(self.run_id, metrics=self._waiting[start : start + BATCH])
        self._waiting = []
        self._written = time.monotonic()


@contextmanager
def tracked_run(
    stage: str, params: Mapping[str, object], resume: Path | None = None
) -> Iterator[Tracker]:
    """A run named `stage` with `params` (nested ones get dotted names); FAILED if the block raises.

    With `resume` (a directory that lives as long as the stage's unfinished work) the run's id is
    kept in it, and a later call with the same directory goes on in the same run. Within `dvc repro`
    it is a child of that one's run.
    """
    client, begun = mlflow_client(), time.monotonic()
    with store_errors():
        sweep(client)
        parent = enter_pipeline(client)
        run_id = _unfinished(client, resume, parent) or _start(client, stage, params, parent)
    if resume is not None:
        resume.mkdir(parents=True, exist_ok=True)
        (resume / RUN_ID_FILE).write_text(run_id)
    tracker = Tracker(client, run_id)
    try:
        yield tracker
        tracker.metrics(0, **usage(begun))
        tracker.flush()
    except BaseException as error:
        ended = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        with suppress(Exception), one_try():  # what went wrong first is what a person must hear of
            tracker.metrics(0, **usage(begun))
            tracker.flush()
        for run in (run_id, parent):
            with suppress(Exception), one_try():
                if run is not None:
                    client.set_terminated(run, ended)
        raise
    with store_errors():
        for run in (run_id, parent):
            if run is not None:  # the next stage opens the parent again
                client.set_terminated(run, "FINISHED")
    if resume is not None:  # it is finished: not a byte of it belongs into the stage's output
        (resume / RUN_ID_FILE).unlink(missing_ok=True)


def flatten(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """`{"a": {"b": 1}}` → `{"a.b": 1}`."""
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _unfinished(client: "MlflowClient", resume: Path | None, parent: str | None) -> str | None:
    from mlflow.exceptions import MlflowException

    file = resume / RUN_ID_FILE if resume is not None else None
    if file is None or not file.is_file():
        return None
    run_id = file.read_text().strip()
    try:
        client.update_run(run_id, status="RUNNING")
    except MlflowException:  # the store was deleted, or is another one
        return None
    for key, value in (circumstances() | ({PARENT: parent} if parent else {})).items():
        client.set_tag(run_id, key, value)
    return run_id


def _start(
    client: "MlflowClient", stage: str, params: Mapping[str, object], parent: str | None
) -> str:
    from mlflow.entities import Param

    tags = {"stage": stage, **circumstances()} | ({PARENT: parent} if parent else {})
    run = client.create_run(experiment_id(client), tags=tags, run_name=stage)
    run_id = str(run.info.run_id)
    entries = [Param(key, str(value)) for key, value in flatten(params).items()]
    client.log_batch(run_id, params=entries)
    log_inputs(client, run_id, stage)
    return run_id
