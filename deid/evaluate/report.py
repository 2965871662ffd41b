"""The stage `report`: one self-contained page that says what was tested and what came out."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from deid.errors import DeidError
from deid.evaluate.cells import ABLATIONS, REFERENCES, TABLES
from deid.evaluate.columns import ARTIFACTS, Column, Parts, columns, networks
from deid.evaluate.faces import FALSE_ACCEPT_RATE
from deid.evaluate.measures import reporting
from deid.evaluate.published import PAPER
from deid.evaluate.verdicts import Verdict, verdicts
from deid.params import AnonymizeParams, EvaluateParams, WorldParams
from deid.storage.staging import write_atomically
from deid.study.scores import Scores, read_scores
from deid.worlds.world import World

Rows = Mapping[str, Mapping[str, Parts]]


@dataclass(frozen=True)
class Line:
    """A row of a table: cells with a mark for the best; `kind` is ours, reference or paper."""

    name: str
    kind: str
    cells: list[tuple[str, bool]]


def lines(table: str, rows: Rows, shown: list[Column], spread: bool = True) -> list[Line]:
    """Our rows with the best of each column marked, then the paper's."""
    best = {c.key: _best(table, rows, c) for c in shown}
    ours = [
        Line(
            method,
            "reference" if method in REFERENCES else "ours",
            [
                (
                    c.text(row[c.key], spread or c.key == ARTIFACTS) if c.key in row else c.missing,
                    method in best[c.key],
                )
                for c in shown
            ],
        )
        for method, row in rows.items()
    ]
    paper = [
        Line(
            name,
            "paper",
            [(c.published(row[c.key]) if c.key in row else "–", False) for c in shown],
        )
        for name, row in PAPER[table].items()
    ]
    return ours + paper


def _best(table: str, rows: Rows, column: Column) -> list[str]:
    """The methods whose figure, as printed, none beats; alone in its table, none is best."""
    sign = 1.0 if column.better == "↑" else -1.0
    digits = column.digits + (2 if column.percent else 0)
    values = {
        method: sign * round(row[column.key]["mean"], digits)
        for method, row in rows.items()
        if method not in (*REFERENCES, *ABLATIONS.get(table, ())) and column.key in row
    }
    if len(values) < 2:
        return []
    return [method for method, value in values.items() if value == max(values.values())]


def report(
    params: EvaluateParams,
    anonymize: AnonymizeParams,
    world_params: WorldParams,
    out: Path,
    ratings: Path | None = None,
) -> None:
    """Write `out/index.html` from what `evaluate` left in `out`; `DeidError` where that is none.

    `ratings`: what `deid study score` wrote, if there is such a file.
    """
    from deid.tracking import tracked_run
    from deid.worlds import load_world

    try:
        content = json.loads((out / "metrics.json").read_bytes())
        metrics = {table: content[table] for table in TABLES}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DeidError(
            f"{out / 'metrics.json'}: not readable ({error}); run `dvc repro evaluate`"
        ) from None
    with tracked_run("report", {}) as run:
        rated = read_scores(ratings) if ratings is not None and ratings.exists() else None
        write_report(metrics, load_world(world_params), params, anonymize, out, rated)
        run.artifact(out / "index.html")


def write_report(
    metrics: Mapping[str, Rows],
    world: World,
    params: EvaluateParams,
    anonymize: AnonymizeParams,
    work: Path,
    rated: Scores | None = None,
) -> None:
    """Write `work/index.html` from the metrics and `work/figures/*.png`, which it embeds; `rated`
    by people, if they have."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("deid.evaluate", "."), autoescape=True, undefined=StrictUndefined
    )
    metrics = {**metrics, "table1": with_ratings(metrics["table1"], rated)}
    shown = {table: columns(table, world) for table in metrics}
    found: list[Verdict] = verdicts(metrics, world.metric_features.fid_label)
    page = environment.get_template("report.html").render(
        world=world,
        reporting=reporting(world),
        networks=networks(world),
        params=params,
        anonymize=anonymize,
        rated=rated,
        false_accept_rate=FALSE_ACCEPT_RATE,
        verdicts=found,
        columns=shown,
        lines={
            table: lines(table, rows, shown[table], spread=params.seeds > 1)
            for table, rows in metrics.items()
        },
        figure=partial(_data_uri, work / "figures"),
    )
    write_atomically(work / "index.html", page.encode())


def with_ratings(rows: Rows, rated: Scores | None) -> Rows:
    """The rows with the artifacts rate of those methods that people rated."""
    if rated is None:
        return rows
    return {
        method: {**row, ARTIFACTS: rated.methods[method].parts} if method in rated.methods else row
        for method, row in rows.items()
    }


def _data_uri(folder: Path, name: str) -> str:
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise DeidError(
            f"{folder / name}: not readable ({error.strerror}); run `deid evaluate` again"
        ) from None
    return "data:image/png;base64," + base64.b64encode(content).decode()
