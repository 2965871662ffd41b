"""MLflow: its store, a run a stage, and what each run came from."""

from deid.tracking.lineage import git_commit
from deid.tracking.run import RUN_ID_FILE, Tracker, tracked_run
from deid.tracking.store import (
    ONE_TRY,
    SQLITE,
    experiment,
    experiment_id,
    mlflow_client,
    shown,
    store_errors,
    store_exists,
    tracking_uri,
)

__all__ = [
    "ONE_TRY",
    "RUN_ID_FILE",
    "SQLITE",
    "Tracker",
    "experiment",
    "experiment_id",
    "git_commit",
    "mlflow_client",
    "shown",
    "store_errors",
    "store_exists",
    "tracked_run",
    "tracking_uri",
]
