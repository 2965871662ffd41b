"""Retrain: pipeline → evaluation → register → gates → promote.

The pipeline is DVC's: what did not change is not done again. A challenger that fails a gate is
never promoted; the run fails then and says which gate and by how much.
"""

import os
import subprocess
import sys
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact

from deid.errors import DeidError
from deid.params import RegisterParams, load_params
from deid.registry.promotion import Contest
from deid.registry.register import Registration, standing
from deid.registry.versions import CHALLENGER

REGISTERED = Path("data/registered.json")


@task(retries=1, retry_delay_seconds=5)
def pipeline(force: bool = False) -> Registration:
    """`dvc repro` here, with its output in the run's log; returns what was registered.

    Stages go on where they were killed, so that another attempt costs little.
    """
    log = get_run_logger()
    here = str(Path(sys.executable).parent)  # the stages call `deid`, which is installed there
    environment = os.environ | {
        "PATH": os.pathsep.join([here, os.environ.get("PATH", "")]),
        "DVC_NO_ANALYTICS": "1",
    }
    command = [sys.executable, "-m", "dvc", "repro", *(["--force"] if force else [])]
    lines: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
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
    return judged


@task
def promoted(params: RegisterParams) -> str:
    """Move the alias `champion`; raises when a gate fails."""
    from deid.registry.promotion import promote

    return promote(params)


@flow(name="retrain", log_prints=True)
def retrain(promote: bool = True, force: bool = False) -> str:
    """Bring the registered model up to date; returns what became of it.

    `promote=False` stops after the gates; `force` runs every stage again. Runs in the project's
    root, whose params.yaml, data and registry it uses. Raises `DeidError` when a stage or, with
    `promote`, a gate fails.
    """
    done = pipeline(force)
    params = load_params().register_
    if done.alias != CHALLENGER:
        return f"{done.model} version {done.version} is {done.alias}; nothing to promote"
    judged = judge(params)
    if not promote:
        passed = "fails a gate" if judged.failures else "passes every gate"
        return f"{done.model} version {done.version} is {CHALLENGER} and {passed}"
    return promoted(params)


if __name__ == "__main__":
    try:
        print(retrain())
    except DeidError as error:
        sys.exit(f"retrain: {error}")
