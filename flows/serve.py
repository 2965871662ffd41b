"""The deployments of prefect.yaml on this machine, without a worker or a work pool.

    python -m flows.serve                (in the project's root; Ctrl-C ends it)

With PREFECT_API_URL they report to that server; without, `prefect server start` comes first.
"""

import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

if TYPE_CHECKING:
    from prefect import Flow

DEPLOYMENTS = Path("prefect.yaml")


def served(file: Path = DEPLOYMENTS) -> list[Any]:
    """The deployments in `file`, with their schedules, triggers and parameters."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.flows import load_flow_from_entrypoint

    made = []
    for entry in yaml.safe_load(file.read_text())["deployments"]:
        flow: Flow[..., Any] = load_flow_from_entrypoint(entry["entrypoint"])
        made.append(
            flow.to_deployment(
                entry["name"],
                description=entry["description"],
                schedules=[_schedule(**each) for each in entry.get("schedules", [])],
                triggers=entry.get("triggers"),
                parameters=entry["parameters"],
                concurrency_limit=ConcurrencyLimitConfig(**entry["concurrency_limit"]),
            )
        )
    return cast(list[Any], made)


def _schedule(interval: float | None = None, **more: Any) -> Any:
    """One of prefect.yaml's, of which Prefect reads the same names; `interval` in seconds."""
    from prefect.schedules import Schedule

    return Schedule(interval=timedelta(seconds=interval) if interval else None, **more)


def main() -> None:
    """Serve them until interrupted."""
    from prefect import serve

    try:
        deployments = served()
    except FileNotFoundError as error:  # of the deployments, or of a flow that they name
        sys.exit(f"serve: {error.filename}: no such file here; go to the project's root")
    serve(*deployments, limit=2)


if __name__ == "__main__":
    main()
