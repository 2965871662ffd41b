"""The stage `evaluate`: every method on every repetition, then tables and figures.

A cell is one method on one repetition's faces. Each finished cell is a small JSON file in the
working directory, so a killed run repeats one cell at most and ends with the same figures.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np

from deid.anonymize import ModelPaths
from deid.evaluate.cells import TABLES, Bench, Cell, measure, produce
from deid.evaluate.columns import SELECTING, columns, selecting
from deid.evaluate.faces import HeldOut, held_out_faces
from deid.evaluate.plots import draw_figures
from deid.params import AnonymizeParams, EvaluateParams, WorldParams
from deid.progress import progress
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
) -> None:
    """Write `metrics.json` and `figures/*.png` to `out`.

    Raises `DeidError` where a stage's output is missing.
    """
    from deid.tracking import tracked_run
    from deid.worlds import load_world

    world = load_world(world_params)
    settings = {
        "evaluate": params.model_dump(mode="json"),
        "anonymize": anonymize.model_dump(mode="json"),
        "world": world.weights_sha256,
        "stage_one": read_description(stage_one)["sha256"],
        "stage_two": read_description(stage_two)["sha256"],
    }
    shown = {key: settings[key] for key in ("evaluate", "anonymize", "world")}
    with resumable_directory(out, settings) as work:
        with tracked_run("evaluate", shown, resume=work) as run:
            metrics = evaluate_world(
                params, anonymize, world, ModelPaths(stage_one, stage_two), work, world_params
            )
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
    # Originals are encoded once a repetition, and only where a cell or a figure needs them.
    faces = cache(lambda seed: held_out_faces(world, params, seed))
    cells = _cells(bench, params, faces, work / CELLS)
    metrics = summarize(cells)
    about = {
        "networks": {
            column.key: asdict(column.network)
            for table in TABLES
            for column in columns(table, world)
        }
        | {f"{name}_selecting": asdict(selecting(world)) for name in SELECTING},
        "world": world.name,
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
    draw_figures(bench, faces(0), metrics, first, work / "figures")
    return metrics


def summarize(cells: Mapping[tuple[str, str, int], Cell]) -> Metrics:
    """Mean and standard deviation (n − 1; 0 for one repetition) of each figure over repetitions."""
    metrics: Metrics = {}
    for table, methods in TABLES.items():
        metrics[table] = {}
        for method in methods:
            rows = [cell.figures for key, cell in cells.items() if key[:2] == (table, method)]
            metrics[table][method] = {
                name: {
                    "mean": float(np.mean([row[name] for row in rows])),
                    "std": float(np.std([row[name] for row in rows], ddof=1))
                    if len(rows) > 1
                    else 0.0,
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


def _cells(
    bench: Bench, params: EvaluateParams, faces: Callable[[int], HeldOut], folder: Path
) -> dict[tuple[str, str, int], Cell]:
    plan = [
        (table, method, seed)
        for seed in range(params.seeds)
        for table, methods in TABLES.items()
        for method in methods
    ]
    cells = {key: cell for key in plan if (cell := _read(_path(folder, key))) is not None}
    with progress("evaluate", len(plan), len(cells)) as bar:
        for key in plan:
            if key not in cells:
                table, method, seed = key
                bar.note(f"{method}, repetition {seed + 1} of {params.seeds}")
                output = produce(bench, method, faces(seed))
                cells[key] = measure(bench, table, faces(seed), output)
                _write(_path(folder, key), cells[key])
                bar.advance()
    return {key: cells[key] for key in plan}


def _path(folder: Path, key: tuple[str, str, int]) -> Path:
    return folder / f"{key[0]}-{key[1]}-{key[2]}.json"


def _write(path: Path, cell: Cell) -> None:
    content = {"figures": cell.figures, "similarities": cell.similarities}
    write_atomically(path, json.dumps(content).encode())


def _read(path: Path) -> Cell | None:
    """A finished cell; None where there is none, or one that a crash of the machine damaged."""
    try:
        content = json.loads(path.read_bytes())
        return Cell(content["figures"], content["similarities"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
