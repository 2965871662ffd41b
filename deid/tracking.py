"""Runs in MLflow: one run a stage, and a killed stage goes on in the run it began.

The store is `sqlite:///mlflow.db` in the current directory unless MLFLOW_TRACKING_URI names
another; artifacts lie in `mlartifacts` beside it. Nothing else in the project knows where runs go.
"""

import logging
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from deid.errors import DeidError

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

EXPERIMENT = "face-deid"
SQLITE = "sqlite:///"
RUN_ID_FILE = "mlflow_run_id"
BATCH = 500  # metrics held back: SQLite takes as long for one as for a thousand
SECONDS_BETWEEN_BATCHES = 10.0
SECONDS_FOR_OTHERS = 20.0  # to finish with the store
# MLflow asks a server that is down again for 4 minutes: right amid a training, not before it.
ONE_TRY = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


def tracking_uri() -> str:
    """Where runs and the registry live."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def store_exists() -> bool:
    """Whether there is a store to ask; a database file is made by who writes to it first."""
    uri = tracking_uri()
    return not uri.startswith(SQLITE) or Path(uri.removeprefix(SQLITE)).is_file()


@contextmanager
def store_errors() -> Iterator[None]:
    """What the store answers in this block (or decorated function) becomes a `DeidError`."""
    try:
        yield
    except Exception as error:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        if not isinstance(error, MlflowException | SQLAlchemyError):
            raise
        uri = tracking_uri()
        cause = error.__context__
        if uri.startswith("http") and isinstance(cause, OSError):  # as all of `requests` are
            kind = type(cause).__name__
            raise DeidError(
                f"{shown(uri)}: the tracking server does not answer ({kind}); start it, or name "
                "another in MLFLOW_TRACKING_URI"
            ) from error
        # A database's own words, without the statement and its values.
        reason = str(getattr(error.__cause__ or error, "orig", None) or error)
        raise DeidError(
            f"{shown(uri)}: {reason.replace(uri, shown(uri))}; repair or free the store, or name "
            "another in MLFLOW_TRACKING_URI"
        ) from error


def shown(uri: str) -> str:
    """A store's address without what may be a password."""
    return uri.removeprefix(SQLITE).split("@")[-1]


@store_errors()
def mlflow_client() -> "MlflowClient":
    """A client of that store, telemetry off, the experiment made; the import takes seconds.

    `DeidError` where the store is not to be used.
    """
    _configure()
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    uri = tracking_uri()
    with _alone(uri), _one_try():
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        if client.get_experiment_by_name(EXPERIMENT) is None:
            local = uri.startswith(SQLITE)
            location = (Path.cwd() / "mlartifacts").as_uri() if local else None
            try:
                client.create_experiment(EXPERIMENT, artifact_location=location)
            except MlflowException:  # on a server another process may be faster
                if client.get_experiment_by_name(EXPERIMENT) is None:
                    raise
    return client


@contextmanager
def _one_try() -> Iterator[None]:
    """Requests fail in seconds, unless the environment says how patient to be."""
    given = {name: value for name, value in ONE_TRY.items() if name not in os.environ}
    os.environ.update(given)
    try:
        yield
    finally:
        for name in given:
            del os.environ[name]


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Two processes that make the same SQLite store at once break each other's migrations."""
    if not uri.startswith(SQLITE):
        yield
        return
    import fcntl

    path = Path(uri.removeprefix(SQLITE))
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            _require_writable(path)
        yield


def _require_writable(path: Path) -> None:
    """MLflow asks a broken file again for minutes, and tells the whole story each time."""
    import sqlite3

    try:
        store = sqlite3.connect(path, timeout=SECONDS_FOR_OTHERS, isolation_level=None)
        try:
            store.execute("BEGIN IMMEDIATE")
            store.execute("SELECT count(*) FROM sqlite_master")
            store.execute("ROLLBACK")
        finally:
            store.close()
    except sqlite3.Error as error:
        remedy = "move it away to begin a new store"
        if isinstance(error, sqlite3.OperationalError):
            remedy = "end what holds it, or fix its permissions"
        raise DeidError(f"{path}: {error}; {remedy}") from None


def experiment_id(client: "MlflowClient") -> str:
    """The project's experiment in `client`'s store."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None, "mlflow_client() makes it"
    return str(experiment.experiment_id)


def git_commit() -> str | None:
    """The checked-out commit, with `-dirty` where tracked files differ; None outside a checkout."""
    try:
        commit, changed = (
            subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.strip() + ("-dirty" if changed.strip() else "")


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
    kept in it, and a later call with the same directory goes on in the same run.
    """
    client = mlflow_client()
    with store_errors():
        run_id = _unfinished(client, resume) or _start(client, stage, params)
    if resume is not None:
        resume.mkdir(parents=True, exist_ok=True)
        (resume / RUN_ID_FILE).write_text(run_id)
    tracker = Tracker(client, run_id)
    try:
        yield tracker
        tracker.flush()
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        with suppress(Exception), _one_try():  # what went wrong first is what a person must hear of
            tracker.flush()
        with suppress(Exception), _one_try():
            client.set_terminated(run_id, "KILLED" if stopped else "FAILED")
        raise
    with store_errors():
        client.set_terminated(run_id, "FINISHED")
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


def _unfinished(client: "MlflowClient", resume: Path | None) -> str | None:
    from mlflow.exceptions import MlflowException

    file = resume / RUN_ID_FILE if resume is not None else None
    if file is None or not file.is_file():
        return None
    run_id = file.read_text().strip()
    try:
        client.update_run(run_id, status="RUNNING")
    except MlflowException:  # the store was deleted, or is another one
        return None
    return run_id


def _start(client: "MlflowClient", stage: str, params: Mapping[str, object]) -> str:
    from mlflow.entities import Param

    tags = {"stage": stage}
    if commit := git_commit():
        tags["mlflow.source.git.commit"] = commit
    run = client.create_run(experiment_id(client), tags=tags, run_name=stage)
    run_id = str(run.info.run_id)
    entries = [Param(key, str(value)) for key, value in flatten(params).items()]
    client.log_batch(run_id, params=entries)
    return run_id


def _configure() -> None:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("alembic").setLevel(logging.WARNING)  # migrations tell their whole story
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # errors: `store_errors`
