"""Prefect flows: retraining and batch de-identification.

    python -m flows.retrain
    python -m flows.deidentify SRC DST

Each runs as plain Python (Prefect then starts a small server of its own for as long as the flow
runs) and, by `prefect.yaml`, on a schedule from a real server.
"""

import os

# Prefect reads these when it is imported, so they stand here.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
