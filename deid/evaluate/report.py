"""`index.html`: one self-contained page that says what was tested and what came out."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from deid.evaluate.cells import ABLATIONS, REFERENCES
from deid.evaluate.faces import FALSE_ACCEPT_RATE
from deid.evaluate.measures import reporting
from deid.evaluate.published import PAPER
from deid.evaluate.verdicts import Verdict, verdicts
from deid.params import AnonymizeParams, EvaluateParams
from deid.storage.staging import write_atomically
from deid.worlds.world import World

Parts = Mapping[str, float]  # mean and std
Rows = Mapping[str, Mapping[str, Parts]]


@dataclass(frozen=True)
class Network:
    """Who measured a figure, and what part that network had in training or selection."""

    name: str
    part: str


@dataclass(frozen=True)
class Column:
    """A figure as a reader meets it; `better` is ↑ or ↓."""

    key: str
    heading: str
    better: str
    digits: int = 3
    percent: bool = False
    network: Network = Network("", "")

    def text(self, parts: Parts) -> str:
        scale, unit = (100.0, "%") if self.percent else (1.0, "")
        mean, std = (f"{parts[name] * scale:.{self.digits}f}" for name in ("mean", "std"))
        return f"{mean} ± {std}{unit}"

    def published(self, value: float) -> str:
        return f"{value * 100:.{self.digits}f}%" if self.percent else f"{value:.{self.digits}f}"


@dataclass(frozen=True)
class Line:
    """A row of a table: cells with a mark for the best; `kind` is ours, reference or paper."""

    name: str
    kind: str
    cells: list[tuple[str, bool]]


def columns(table: str, world: World) -> list[Column]:
    """What `table` shows; metrics.json has more."""
    features, recognizers, encoder, detector = networks(world)
    fid = Column("fid", world.metric_features.fid_label, "↓", 2, network=features)
    privacy = [
        Column("id_similarity", "ID similarity", "↓", network=recognizers),
        Column("reidentification", "re-identified, worst", "↓", 1, True, recognizers),
    ]
    if table == "table1":
        return [
            Column("detect_rate", "face detected", "↑", 1, True, detector),
            *privacy,
            Column("id_similarity_attacked", "ID similarity, attacked", "↓", network=encoder),
            fid,
        ]
    if table == "table2":
        donor, expression = "similarity to donor", "target expression loss"
        return [
            fid,
            Column("source_id_loss", "source identity loss", "↓", 4, network=encoder),
            Column("source_id_similarity", donor, "↑", network=recognizers),
            Column("target_expression_loss", expression, "↓", network=features),
            *privacy,
        ]
    return [
        fid,
        Column("lpips", world.metric_features.lpips_label, "↓", network=features),
        Column("id_loss", "identity loss", "↓", 4, network=encoder),
        Column("expression_loss", "expression loss", "↓", network=features),
    ]


def networks(world: World) -> tuple[Network, Network, Network, Network]:
    """What measures distances, identity of strangers' eyes, identity as trained, and detection."""
    independent = "no part in training or selection"
    shared = world.metric_features is world.perceptual
    return (
        Network("metric features", "also stage two’s perceptual term" if shared else independent),
        Network(
            ", ".join(reporting(world)), independent if world.reporting else "also selects models"
        ),
        Network("En_id", "trained with and attacked"),
        Network(world.detector.name, "no part in training; a promotion gate reads it"),
    )


def lines(table: str, rows: Rows, shown: list[Column]) -> list[Line]:
    """Our rows with the best of each column marked, then the paper's."""
    ours = [
        Line(
            method,
            "reference" if method in REFERENCES else "ours",
            [(c.text(row[c.key]), method in _best(table, rows, c)) for c in shown],
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
        if method not in (*REFERENCES, *ABLATIONS.get(table, ()))
    }
    if len(values) < 2:
        return []
    return [method for method, value in values.items() if value == max(values.values())]


def write_report(
    metrics: Mapping[str, Rows],
    world: World,
    params: EvaluateParams,
    anonymize: AnonymizeParams,
    work: Path,
) -> None:
    """Write `work/index.html` from the metrics and `work/figures/*.png`, which it embeds."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("deid.evaluate", "."), autoescape=True, undefined=StrictUndefined
    )
    shown = {table: columns(table, world) for table in metrics}
    found: list[Verdict] = verdicts(metrics, world.metric_features.fid_label)
    page = environment.get_template("report.html").render(
        world=world,
        reporting=reporting(world),
        networks=networks(world),
        params=params,
        anonymize=anonymize,
        false_accept_rate=FALSE_ACCEPT_RATE,
        verdicts=found,
        columns=shown,
        lines={table: lines(table, rows, shown[table]) for table, rows in metrics.items()},
        figure=partial(_data_uri, work / "figures"),
    )
    write_atomically(work / "index.html", page.encode())


def _data_uri(folder: Path, name: str) -> str:
    return "data:image/png;base64," + base64.b64encode((folder / name).read_bytes()).decode()
