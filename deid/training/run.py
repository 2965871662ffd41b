"""A stage from its beginning, or its last checkpoint, to the files it leaves."""

from pathlib import Path

from deid.storage.staging import resumable_directory, working_directory
from deid.training.checkpoint import remove_checkpoint
from deid.training.loop import Stage, rounded, train
from deid.training.processes import barrier, most_memory, peak_memory
from deid.training.sheets import draw_curves


def run_stage(stage: Stage, out: Path) -> None:
    """Train `stage`; write model, curves and a sheet of samples to `out`.

    A killed run goes on from its last checkpoint when called again, to the same bytes. Of several
    processes one owns files, run and pictures; the others only train.
    """
    if not stage.fabric.is_global_zero:
        barrier(stage.fabric)
        train(stage, working_directory(out))
        most_memory(stage.fabric)
        return
    with resumable_directory(out, stage.recipe()) as working:
        barrier(stage.fabric)  # the directory is ready
        _run_in(working, stage)
        remove_checkpoint(working)


def _run_in(working: Path, stage: Stage) -> None:
    from deid.tracking import tracked_run

    params, name = stage.params, stage.name.replace(" ", "_")
    with tracked_run(name, params.model_dump(mode="json"), resume=working) as tracker:
        train(stage, working, tracker)
        peak = most_memory(stage.fabric)
        figures = rounded(stage.figures())
        stage.save(working, figures)
        draw_curves(working / "losses.png", working / "losses.csv", stage.name.capitalize())
        # Not in model.json, the bytes of which follow from the recipe.
        peak = max(peak, peak_memory(stage.fabric.device))
        tracker.metrics(params.steps, **figures, peak_memory_mib=peak)
        for file in ("losses.png", "sheet.png", "model.json"):
            tracker.artifact(working / file)
