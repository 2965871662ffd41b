"""`deid flows …`: what the scheduled flows did and will do, without Prefect's page."""

import os
from datetime import UTC, datetime
from typing import Any

import typer

from deid.errors import DeidError

app = typer.Typer(help="The scheduled flows.", no_args_is_help=True)
API = "PREFECT_API_URL"
LATE = 60  # seconds after which a run that has not begun is late
TIMEOUT = 30  # seconds for the server's answer


@app.callback()
def _group() -> None:
    """The scheduled flows."""


@app.command()
def status(
    api: str = typer.Option("http://127.0.0.1:4200/api", envvar=API, help="Of Prefect's server."),
) -> None:
    """Each deployment: its last runs and what they said, what is at work, what comes next.

    Exits with 1 where the last run of any failed or crashed, or one is late.
    """
    import httpx

    try:
        with httpx.Client(base_url=api, timeout=TIMEOUT, headers=_headers()) as server:
            deployments = _posted(server, "deployments/filter", {"sort": "NAME_ASC"})
            lines = [_lines(server, deployment) for deployment in deployments]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise DeidError(
            f"{api}: Prefect's server does not answer ({error}); start it with `prefect server "
            f"start --background`, or correct {API}"
        ) from None
    if not lines:
        raise DeidError(f"{api}: no deployment; run `prefect --no-prompt deploy --all`")
    for told, _ in lines:
        typer.echo("\n".join(told))
    if any(bad for _, bad in lines):
        raise typer.Exit(1)


def _headers() -> dict[str, str]:
    key = os.environ.get("PREFECT_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _posted(server: Any, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = server.post(path, json=body)
    answer.raise_for_status()
    found: list[dict[str, Any]] = answer.json()
    return found


def _lines(server: Any, deployment: dict[str, Any]) -> tuple[list[str], bool]:
    """What there is to say of a deployment, and whether it is bad."""
    paused = ", paused" if deployment.get("paused") else ""
    lines, bad = [f"{deployment['name']}{paused}"], False
    ended = _runs(server, deployment, ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"], "END", 3)
    for number, run in enumerate(ended):
        state = run["state"]
        lines.append(f"  {state['name'].lower():12}{_when(run['end_time'])}  {_said(state)}")
        bad = bad or (number == 0 and state["type"] in ("FAILED", "CRASHED"))
    for run in _runs(server, deployment, ["RUNNING", "PENDING", "CANCELLING"], "START", 3):
        since = f"since {_when(run['start_time'])}" if run["start_time"] else "not begun yet"
        lines.append(f"  {run['state']['name'].lower():12}{since}")
    for run in _runs(server, deployment, ["SCHEDULED"], "NEXT", 1):
        due = datetime.fromisoformat(run["expected_start_time"])
        late = (datetime.now(UTC) - due).total_seconds() > LATE
        word = "late" if late else "next"
        lines.append(f"  {word:12}{_when(run['expected_start_time'])}")
        if late:
            lines.append("  no worker takes it: `prefect worker start --pool deid`")
        bad = bad or late
    if len(lines) == 1:
        lines.append("  no run yet, and none is scheduled")
    return lines, bad


SORTS = {"END": "END_TIME_DESC", "START": "START_TIME_DESC", "NEXT": "EXPECTED_START_TIME_ASC"}


def _runs(
    server: Any, deployment: dict[str, Any], types: list[str], sort: str, limit: int
) -> list[dict[str, Any]]:
    body = {
        "deployments": {"id": {"any_": [deployment["id"]]}},
        "flow_runs": {"state": {"type": {"any_": types}}},
        "sort": SORTS[sort],
        "limit": limit,
    }
    return _posted(server, "flow_runs/filter", body)


def _when(time: str | None) -> str:
    if time is None:  # of a run that was cancelled, or crashed, before it began
        return "not begun"
    return datetime.fromisoformat(time).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _said(state: dict[str, Any]) -> str:
    return " ".join(str(state.get("message") or "").split())[:200]
