"""Retrain: drift → pipeline → evaluation → register → gates → promote or keep.

The pipeline is DVC's: what did not change is not done again, and a stage that was killed goes on
where it was. A challenger that fails a gate is never promoted; the run fails then and says which
gate and by how much.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Literal

from filelock import FileLock, Timeout
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.events import emit_event
from pydantic import Field

from deid.errors import DeidError
from deid.params import RegisterParams, load_params
from deid.registry.promotion import Contest
from deid.registry.register import Registration, standing
from deid.registry.versions import CHALLENGER
from flows.drift import Drift

REGISTERED = Path("data/registered.json")
REPORT = Path("reports/index.html")
DRIFT_DOCS = Path("reports/drift")
LOCK, REPRO_LOCK = Path(".dvc/tmp/retrain.lock"), Path(".dvc/tmp/retrain-repro.lock")
LIMIT = "retrain"  # a global concurrency limit of the server: one retraining on all machines
LEASE_SECONDS = 60.0  # how long that of a killed run is kept
WAIT = 90.0  # seconds, so that a killed run's lease has ended by then
RETRAINED, DRIFTED = "deid.model.retrained", "deid.model.drifted"


@task
def check_inputs(model: str, batches: Sequence[str]) -> Drift:
    """What recent batches say of the champion; emits an event where their pictures changed."""
    from flows.drift import look

    drift = look(model, batches, DRIFT_DOCS)
    told = drift.changed or (drift.note or "As before.",)
    text = "\n".join([f"# Drift of {model}: {drift.pictures} pictures", *(f"- {t}" for t in told)])
    create_markdown_artifact(key="drift", markdown=text, description="Recent pictures")
    if drift.changed:
        _emit(DRIFTED, model, changed=list(drift.changed))
    return drift


@task(retries=1, retry_delay_seconds=5)
def pipeline(force: bool = False) -> Registration:
    """`dvc repro` here, with its output in the run's log; returns what was registered.

    Stages go on where they were killed, so that another attempt costs little. When this process
    dies, however it does, `dvc` and its stages end too.
    """
    log = get_run_logger()
    here = str(Path(sys.executable).parent)  # the stages call `deid`, which is installed there
    environment = os.environ | {
        "PATH": os.pathsep.join([here, os.environ.get("PATH", "")]),
        "DVC_NO_ANALYTICS": "1",
    }
    guard = [sys.executable, "-m", "flows.guard", str(REPRO_LOCK)]
    command = [*guard, sys.executable, "-m", "dvc", "repro", *(["--force"] if force else [])]
    lines: list[str] = []
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,  # held open: see `flows.guard`
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            log.info(lines[-1])
    if process.returncode != 0:
        ours = [line for line in lines if line.startswith("deid:")]
        said = (ours or lines or ["no output"])[-1]
        raise DeidError(f"dvc repro: exit code {process.returncode}: {said}")
    return standing(REGISTERED)


@task
def judge(params: RegisterParams) -> Contest:
    """The challenger against the gates and the champion, as a table in the run's artifacts."""
    from deid.registry.promotion import contest

    judged = contest(params)
    verdict = "\n".join(f"- {failure}" for failure in judged.failures) or "Every gate is passed."
    create_markdown_artifact(
        key="gates",
        markdown=f"# {params.model} version {judged.challenger}\n\n{judged.table}\n\n{verdict}\n",
        description="Gated figures of the challenger and the champion",
    )
    if REPORT.is_file():
        create_link_artifact(
            key="report", link=REPORT.resolve().as_uri(), description="Tables and figures"
        )
    return judged


@task
def promoted(params: RegisterParams) -> str:
    """Move the alias `champion`; raises when a gate fails."""
    from deid.registry.promotion import promote

    return promote(params)


@contextmanager
def alone() -> Iterator[None]:
    """Keep other retrainings out: of this folder by a lock that no kill leaves behind, of other
    machines by a limit of the server, which a killed run holds until its lease ends."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(FileLock(LOCK, timeout=0))
            with get_client(sync_client=True) as client:
                client.upsert_global_concurrency_limit_by_name(LIMIT, 1)
            slot = concurrency(
                LIMIT,
                timeout_seconds=WAIT,
                lease_duration=LEASE_SECONDS,
                strict=True,
                # The limit that a deployment has is renewed by Prefect and does end the run.
                raise_on_lease_renewal_failure=False,
            )
            held.enter_context(slot)
        except (Timeout, TimeoutError):
            raise DeidError("another retraining is at work; wait for its end") from None
        yield


@flow(name="retrain", log_prints=True)
def retrain(
    when: Annotated[
        Literal["always", "drift"],
        Field(description="drift: only where recent pictures are not as they were."),
    ] = "always",
    batches: Annotated[
        list[str] | None, Field(description="Destinations of `deidentify`, looked at for drift.")
    ] = None,
    promote: Annotated[bool, Field(description="Or else stop after the gates.")] = True,
    force: Annotated[bool, Field(description="Run every stage again.")] = False,
) -> str:
    """Bring the registered model up to date; returns what became of it.

    Runs in the project's root, whose params.yaml, data and registry it uses. Raises `DeidError`
    when another retraining is at work, or when a stage or, with `promote`, a gate fails.
    """
    params = load_params().register_
    drift = check_inputs(params.model, batches) if batches else Drift(0, note="not looked for")
    if when == "drift" and not drift.changed:
        return f"{params.model}: no drift ({drift.note or 'as before'}); nothing retrained"
    with alone():
        ended = _retrained(params, promote, force)
    _emit(RETRAINED, params.model, outcome=ended)
    return ended


def _retrained(params: RegisterParams, promote: bool, force: bool) -> str:
    done = pipeline(force)
    if done.alias != CHALLENGER:
        return f"{done.model} version {done.version} is {done.alias}; nothing to promote"
    judged = judge(params)
    if not promote:
        passed = "fails a gate" if judged.failures else "passes every gate"
        return f"{done.model} version {done.version} is {CHALLENGER} and {passed}"
    return promoted(params)


def _emit(event: str, model: str, **payload: object) -> None:
    emit_event(event, resource={"prefect.resource.id": f"deid.model.{model}"}, payload=payload)


if __name__ == "__main__":
    try:
        print(retrain())
    except DeidError as error:
        sys.exit(f"retrain: {error}")
