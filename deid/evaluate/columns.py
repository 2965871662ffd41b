"""What the tables show: a figure's heading, and which network measured it."""

from collections.abc import Mapping
from dataclasses import dataclass

from deid.evaluate.measures import reporting
from deid.worlds.world import World

Parts = Mapping[str, float]  # mean and std


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
    missing: str = "–"  # what stands where a method has no such figure

    def text(self, parts: Parts, spread: bool = True) -> str:
        """The mean, with `spread` also the deviation: of one repetition there is none."""
        scale, unit = (100.0, "%") if self.percent else (1.0, "")
        mean, std = (f"{parts[name] * scale:.{self.digits}f}" for name in ("mean", "std"))
        return f"{mean} ± {std}{unit}" if spread else f"{mean}{unit}"

    def published(self, value: float) -> str:
        return f"{value * 100:.{self.digits}f}%" if self.percent else f"{value:.{self.digits}f}"


ARTIFACTS = "artifacts_rate"
"""Not in metrics.json: people say it, in `deid study`."""

STANDARD = Network("standard", "no part in training or selection")
PEOPLE = Network("people", "raters of a study; ± over raters")


def columns(table: str, world: World) -> list[Column]:
    """What `table` shows; metrics.json has more."""
    features, recognizers, encoder, detector = networks(world)
    fid = [Column("fid", world.metric_features.fid_label, "↓", 2, network=features)]
    lpips = [Column("lpips", world.metric_features.lpips_label, "↓", network=features)]
    if (standard := world.standard) is not None:
        fid.append(Column("fid_standard", standard.fid_label, "↓", 2, network=STANDARD))
        lpips.append(Column("lpips_standard", standard.lpips_label, "↓", network=STANDARD))
    privacy = [
        Column("id_similarity", "ID similarity", "↓", network=recognizers),
        Column("reidentification", "re-identified, worst", "↓", 1, True, recognizers),
    ]
    if table == "table1":
        return [
            Column("detect_rate", "face detected", "↑", 1, True, detector),
            *privacy,
            Column("id_similarity_attacked", "ID similarity, attacked", "↓", network=encoder),
            *fid,
            Column(ARTIFACTS, "artifacts rate", "↓", network=PEOPLE, missing="not rated"),
        ]
    if table == "table2":
        donor, expression = "similarity to donor", "target expression loss"
        return [
            *fid,
            Column("source_id_loss", "source identity loss", "↓", 4, network=encoder),
            Column("source_id_similarity", donor, "↑", network=recognizers),
            Column("target_expression_loss", expression, "↓", network=features),
            *privacy,
        ]
    return [
        *fid,
        *lpips,
        Column("id_loss", "identity loss", "↓", 4, network=encoder),
        Column("expression_loss", "expression loss", "↓", network=features),
    ]


SELECTING = ("id_similarity", "reidentification")
"""Figures that promotion gates read as the selecting recognizer has them."""


def selecting(world: World) -> Network:
    """The recognizer that promotion gates look at."""
    return Network(world.selecting, "no part in training; picks the champion")


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
