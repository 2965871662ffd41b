"""When a challenger may become champion: limits on figures of `reports/metrics.json`.

Pure functions. A figure that is missing or not a number fails; it never passes by default. Figures
that compare identities are those of the recognizer that selects; others report (`World`).
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from deid.errors import DeidError
from deid.params import Gates

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Figure:
    """A gated figure: where it stands in the metrics, and which way is better."""

    gate: str  # field of `Gates`
    key: str  # dotted key of metrics.json
    higher_is_better: bool = False

    def loss(self, value: float, than: float) -> float:
        """How much worse `value` is; negative when it is better."""
        return than - value if self.higher_is_better else value - than

    @property
    def short(self) -> str:
        """For the head of a table."""
        _, method, name = self.key.split(".")
        return f"{method} {name.removesuffix('_selecting').replace('_', ' ')}"

    def limit(self, gates: Gates) -> dict[str, object]:
        """Its gate, and what it must reach."""
        sign = "≥" if self.higher_is_better else "≤"
        return {"gate": self.gate, "sign": sign, "limit": float(getattr(gates, self.gate))}

    def best(self, values: Iterable[float]) -> float:
        """The best of `values`; NaN where there is none or one is not a number."""
        known = list(values)
        if not known or any(math.isnan(value) for value in known):
            return math.nan
        return max(known) if self.higher_is_better else min(known)


FIGURES = (
    Figure("max_id_similarity", "table1.adversarial.id_similarity_selecting"),
    Figure("max_reidentification", "table1.adversarial.reidentification_selecting"),
    Figure("min_detect_rate", "table1.adversarial.detect_rate", higher_is_better=True),
    Figure("max_id_similarity", "table2.swap.id_similarity_selecting"),
    Figure("max_reidentification", "table2.swap.reidentification_selecting"),
    Figure("min_detect_rate", "table2.swap.detect_rate", higher_is_better=True),
    Figure("max_source_id_loss", "table2.swap.source_id_loss"),
    Figure("max_fid", "table1.adversarial.fid"),
    Figure("max_fid", "table2.swap.fid"),
)


@dataclass(frozen=True)
class Metrics:
    """What `metrics.json` says."""

    figures: dict[str, float]  # by dotted key; of `{mean, std}` the mean is at the key itself
    measured: object  # the content that they hold for
    held_out: str  # the faces that they were measured on, and by which networks of the world
    networks: Mapping[str, Mapping[str, str]]  # figure → which network measured it, and its part


def read_metrics(path: Path) -> Metrics:
    """`metrics.json`, checked.

    Errors: `DeidError` for a missing or unreadable file, or a gated figure that is missing or not
    finite.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise DeidError(f"{path}: no such file; run `dvc repro evaluate` first") from None
    except (ValueError, OSError) as error:
        raise DeidError(
            f"{path}: not readable as JSON ({error}); run `dvc repro -f evaluate`"
        ) from None
    known = isinstance(content, dict)
    measured = content.pop("measured", None) if known else None
    about = content.pop("about", {}) if known else {}
    flat = _numbers(content)
    for figure in FIGURES:
        if figure.key not in flat:
            raise DeidError(f"{path}: {figure.key} is missing; run `dvc repro -f evaluate`")
        if not math.isfinite(flat[figure.key]):
            raise DeidError(
                f"{path}: {figure.key} is {flat[figure.key]}; train again, then run `dvc repro`"
            )
    return Metrics(flat, measured, _held_out(about), about.get("networks", {}))


def _held_out(about: Mapping[str, object]) -> str:
    if "images" not in about:
        return ""
    weights = f" ({str(about['weights'])[:12]})" if "weights" in about else ""
    return (
        f"{about['images']} faces of {about['identities']} people of the world {about['world']}"
        f"{weights}, {about['repetitions']} times"
    )


def gated(metrics: Figures) -> dict[str, float]:
    """Only the figures that gates look at."""
    return {figure.key: metrics[figure.key] for figure in FIGURES}


def failed_gates(gates: Gates, challenger: Figures, promoted: Iterable[Figures] = ()) -> list[str]:
    """One sentence for each gate that `challenger` fails; empty when it may be promoted.

    `promoted`: the figures of every version that was ever champion, of which the best count: a
    little worse each time is not little in the end.
    """
    former = list(promoted)
    failures, better = [], not former
    for figure in FIGURES:
        value = challenger.get(figure.key, math.nan)
        limit = float(getattr(gates, figure.gate))
        if not figure.loss(value, limit) <= 0.0:  # so that NaN fails
            sign = "≥" if figure.higher_is_better else "≤"
            failures.append(f"{figure.gate}: {figure.key} is {value:.4g}, must be {sign} {limit:g}")
        if not former:
            continue
        best = figure.best(figures.get(figure.key, math.nan) for figures in former)
        if not figure.loss(value, best) <= gates.max_regression * abs(limit):
            failures.append(
                f"max_regression: {figure.key} is {value:.4g}, the best champion's is {best:.4g}, "
                f"more than {gates.max_regression:.0%} of the limit {limit:g} worse"
            )
        better = better or any(
            figure.loss(value, figures.get(figure.key, math.nan)) < 0.0 for figures in former[-1:]
        )
    if not better:
        failures.append("no gated figure is better than the champion's")
    return failures


def metrics_table(gates: Gates, challenger: Figures, champion: Figures | None) -> str:
    """The gated figures as a Markdown table."""
    rows = ["| figure | challenger | champion | limit |", "|---|---|---|---|"]
    for figure in FIGURES:
        sign = "≥" if figure.higher_is_better else "≤"
        reference = "–" if champion is None else f"{champion.get(figure.key, math.nan):.4g}"
        limit = f"{sign} {getattr(gates, figure.gate):g}"
        value = f"{challenger.get(figure.key, math.nan):.4g}"
        rows.append(f"| {figure.key} | {value} | {reference} | {limit} |")
    return "\n".join(rows)


def _numbers(node: object, prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
    if isinstance(node, Mapping):
        for key, value in node.items():
            name = prefix if key == "mean" and prefix else f"{prefix}.{key}".lstrip(".")
            flat |= _numbers(value, name)
    elif isinstance(node, int | float) and not isinstance(node, bool):
        flat[prefix] = float(node)
    return flat
