"""Where a deployed flow runs: the project's root on the worker's machine, whatever it is called."""

import os
from pathlib import Path

from deid.errors import DeidError

PROJECT = "DEID_PROJECT"


def enter() -> dict[str, str]:
    """The pull step of prefect.yaml: go to the folder that DEID_PROJECT names, or else to the one
    in which the worker was started. `DeidError` where that is no project."""
    named = os.environ.get(PROJECT)
    folder = Path(named or os.environ.get("PWD", "."))
    if not (folder / "params.yaml").is_file():
        raise DeidError(
            f"{folder}: has no params.yaml; start the worker in the project's root, or name that "
            f"in {PROJECT}"
        )
    os.chdir(folder)
    return {"directory": str(folder)}
