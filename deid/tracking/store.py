"""The MLflow store: where it is, whether it answers, and what it says when it does not.

It is `sqlite:///mlflow.db` in the current directory unless MLFLOW_TRACKING_URI names another, a
server or a database; artifacts lie in `mlartifacts` beside it, or where DEID_ARTIFACTS says
(`s3://bucket/prefix`). Nothing else in the project knows where runs go.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from deid.errors import DeidError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

EXPERIMENT = "face-deid"
SQLITE = "sqlite:///"
SECONDS_FOR_OTHERS = 20.0  # to finish with the store
# MLflow asks a server that is down again for 4 minutes: right amid a training, not before it.
ONE_TRY = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


def tracking_uri() -> str:
    """Where runs and the registry live."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_home() / 'mlflow.db'}"


def experiment() -> str | None:
    """The name of the DVC experiment that this process is a stage of, or None."""
    return os.environ.get("DVC_EXP_NAME")


def _home() -> Path:
    """The project; `dvc exp run --temp` works in a copy of it, which is thrown away."""
    root = os.environ.get("DVC_ROOT") if experiment() else None
    return Path(root) if root else Path.cwd()


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
    """A store's address without what may be a password: no user, no query."""
    if uri.startswith(SQLITE):
        return uri.removeprefix(SQLITE)
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


@store_errors()
def mlflow_client() -> "MlflowClient":
    """A client of that store, telemetry off, the experiment made; the import takes seconds.

    `DeidError` where the store is not to be used.
    """
    _configure()
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    uri = tracking_uri()
    with _alone(uri), one_try():
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        if client.get_experiment_by_name(EXPERIMENT) is None:
            location = os.environ.get("DEID_ARTIFACTS")  # of a server, its own choice
            if location is None and not uri.startswith("http"):
                location = (_home() / "mlartifacts").as_uri()
            try:
                client.create_experiment(EXPERIMENT, artifact_location=location)
            except MlflowException:  # on a server another process may be faster
                if client.get_experiment_by_name(EXPERIMENT) is None:
                    raise
    return client


@contextmanager
def one_try() -> Iterator[None]:
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


def _configure() -> None:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("alembic").setLevel(logging.WARNING)  # migrations tell their whole story
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # errors: `store_errors`
