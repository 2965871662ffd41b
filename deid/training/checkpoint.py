"""Checkpoints of a training: everything a killed run needs to end with the same bytes."""

from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from deid.errors import DeidError
from deid.training.processes import barrier, peers

FILE = "checkpoint.pt"


def save_checkpoint(fabric: Fabric, folder: Path, state: dict[str, Any]) -> None:
    """Write `state` (modules, optimizers, plain values); a kill leaves the one before whole.

    Every process calls this; one writes, the others wait.
    """
    temporary = folder / f".{FILE}.tmp"
    with peers(fabric):
        fabric.save(temporary, state)
    if fabric.is_global_zero:
        temporary.replace(folder / FILE)
    barrier(fabric)


def load_checkpoint(fabric: Fabric, folder: Path, state: dict[str, Any]) -> None:
    """Restore modules, optimizers and values of `state` in place; nothing where none was saved.

    Read without executing anything (`weights_only`), by every process, whatever the number of
    processes was that wrote it. `DeidError` where it is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return
    try:
        fabric.load(path, state, weights_only=True)
    except Exception as error:  # torch raises many kinds here
        reason = str(error).splitlines()[0]
        raise DeidError(f"{path}: damaged ({reason}); delete {folder} and run again") from None


def remove_checkpoint(folder: Path) -> None:
    """A finished stage keeps its weights only."""
    for name in (FILE, f".{FILE}.tmp"):
        (folder / name).unlink(missing_ok=True)
