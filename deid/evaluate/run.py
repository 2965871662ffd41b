"""The stage `evaluate`: every method on every repetition, then tables and figures."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from deid.anonymize import ModelPaths
from deid.evaluate.cells import TABLES, Bench, Cell
from deid.evaluate.columns import SELECTING, columns, selecting
from deid.evaluate.plots import draw_figures
from deid.evaluate.spread import Cells, share_out
from deid.params import AnonymizeParams, EvaluateParams, WorldParams
from deid.pool import one_of_many
from deid.stage_files import content_of, read_description
from deid.storage.staging import resumable_directory, write_atomically
from deid.worlds.world import World

Metrics = dict[str, dict[str, dict[str, dict[str, float]]]]  # table, method, figure, mean and std
CELLS = "cells"


def evaluate(
    params: EvaluateParams,
    anonymize: AnonymizeParams,
    world_params: WorldParams,
    stage_one: Path,
    stage_two: Path,
    out: Path,
    jobs: int = 1,
) -> None:
    """Write `metrics.json` and `figures/*.png` to `out`; `DeidError` where a stage's output is
    missing. With a processor's world, `jobs` processes share the work; each computes on one
    thread, so their number changes no figure.
    """
    from deid.tracking import tracked_run
    from deid.worlds import load_world

    world = load_world(world_params)
    settings = {
        "evaluate": params.model_dump(mode="json"),
        "anonymize": anonymize.model_dump(mode="json"),
        "world": world.weights_sha256,
        **world.companions,
        "stage_one": read_description(stage_one)["sha256"],
        "stage_two": read_description(stage_two)["sha256"],
    }
    shown = {key: settings[key] for key in ("evaluate", "anonymize", "world")}
    models, on_cpu = ModelPaths(stage_one, stage_two), world.device.type == "cpu"
    if on_cpu:
        one_of_many()
    with resumable_directory(out, settings) as work:
        with tracked_run("evaluate", shown, resume=work) as run:
            if on_cpu and jobs > 1:
                open_ = partial(_open, world_params, models, anonymize, params.batch_size)
                share_out(open_, params, work / CELLS, jobs)
            metrics = evaluate_world(params, anonymize, world, models, work, world_params)
            run.metrics(0, **flatten(metrics))
            for name in ("metrics.json", "figures"):
                run.artifact(work / name)
        shutil.rmtree(work / CELLS)


def evaluate_world(
    params: EvaluateParams,
    anonymize: AnonymizeParams,
    world: World,
    models: ModelPaths,
    work: Path,
    world_params: WorldParams | None = None,
) -> Metrics:
    """Everything of `evaluate` but tracking and staging; `work` keeps the finished cells."""
    bench = Bench(world, models, anonymize, params.batch_size)
    worker = Cells.on(bench, params, work / CELLS)
    cells = worker.all()
    metrics = summarize(cells)
    about = {
        "networks": {
            column.key: asdict(column.network)
            for table in TABLES
            for column in columns(table, world)
        }
        | {f"{name}_selecting": asdict(selecting(world)) for name in SELECTING},
        "world": world.name,
        "weights": world.weights_sha256,
        "fid": world.metric_features.fid_label,
        "lpips": world.metric_features.lpips_label,
        "images": params.identities * params.views,
        "identities": params.identities,
        "repetitions": params.seeds,
    }
    assert models.stage_two is not None, "every table has the adversarial mapping"
    measured = content_of(models.stage_one, models.stage_two, anonymize, world_params)
    content = {"about": about, "measured": measured, **metrics}
    write_atomically(work / "metrics.json", json.dumps(content, indent=2).encode() + b"\n")
    first = {method: cell for (_, method, seed), cell in cells.items() if seed == 0}
    figures = work / "figures"
    draw_figures(bench, worker.faces(0), metrics, first, worker.pictures, figures)
    write_atomically(figures / "groups.png", worker.groups())
    return metrics


def summarize(cells: Mapping[tuple[str, str, int], Cell]) -> Metrics:
    """Mean and standard deviation (n − 1; 0 for one repetition) of each figure over repetitions."""
    metrics: Metrics = {table: {} for table in TABLES}
    for table, method in dict.fromkeys((table, method) for table, method, _ in cells):
        rows = [cell.figures for key, cell in cells.items() if key[:2] == (table, method)]
        metrics[table][method] = {
            name: {
                "mean": float(np.mean([row[name] for row in rows])),
                "std": float(np.std([row[name] for row in rows], ddof=1)) if len(rows) > 1 else 0.0,
            }
            for name in rows[0]
        }
    return metrics


def flatten(metrics: Metrics) -> dict[str, float]:
    """Dotted keys `table.method.figure.mean|std` → numbers."""
    return {
        f"{table}.{method}.{figure}.{part}": value
        for table, methods in metrics.items()
        for method, figures in methods.items()
        for figure, parts in figures.items()
        for part, value in parts.items()
    }


def _open(
    world_params: WorldParams, models: ModelPaths, anonymize: AnonymizeParams, batch_size: int
) -> Bench:
    from deid.worlds import load_world

    return Bench(load_world(world_params), models, anonymize, batch_size)
