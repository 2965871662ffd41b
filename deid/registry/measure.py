"""Figures of a registered version on today's held-out faces, so that another compares with it."""

import tempfile
from pathlib import Path

from deid.evaluate.run import evaluate
from deid.params import Params
from deid.registry.files import find_version, registered
from deid.registry.gates import read_metrics
from deid.registry.register import record_figures
from deid.tracking import mlflow_client, store_errors


@store_errors()
def measure(params: Params, version: str) -> str:
    """Evaluate a version, by alias or number, as the stage `evaluate` does, in a run of its own;
    its gated figures take the place of those it had. Says what was done."""
    model = params.register_.model
    found = registered(version, model)
    bundle = found.bundle
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "reports"
        stages = bundle.stage_one, bundle.stage_two
        world = bundle.world.model_copy(update={"faces": params.world.faces})  # a bundle has none
        evaluate(params.evaluate, bundle.anonymize, world, *stages, out)
        read = read_metrics(out / "metrics.json")
    client = mlflow_client()
    registered_version = find_version(client, model, found.version)
    verdict = record_figures(client, params.register_, registered_version, read)
    return f"{model} version {found.version} measured on {read.held_out}: {verdict}"
