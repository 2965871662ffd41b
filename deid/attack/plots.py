"""The figures of the page, as PNG. Matplotlib takes a second to import, so that is done late."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deid.attack.attackers import Searches
from deid.attack.scores import FAR, trade_off

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which color-blind readers can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
PANELS = (("utility", "expression"), ("quality", "lpips"))
"""What privacy is plotted against: part of the metrics, and figure."""


def det_curves(searches: Searches) -> bytes:
    """An axis an attacker, a curve a recognizer: what share of outputs is not matched, at each rate
    of false matches."""
    figure, axes = _axes(3.1 * len(searches), 3.0, len(searches))
    names = list(dict.fromkeys(name for found in searches.values() for name in found))
    colors, known = dict(zip(names, COLORS * 3, strict=False)), set(next(iter(searches.values())))
    for axis, (attacker, found) in zip(axes, searches.items(), strict=True):
        for name, one in found.items():
            rates, missed = trade_off(one)
            color, label = colors[name], name if axis is axes[0] or name not in known else None
            axis.plot(
                rates, missed, label=label, color=color, drawstyle="steps-post", linewidth=1.4
            )
        if axis is axes[0] or not known.issuperset(found):
            axis.legend(frameon=False, fontsize=7, loc="lower left")
        axis.plot(rates, 1 - rates, color="#bbbbbb", linewidth=1, linestyle=":")
        axis.axvline(FAR, color="#dddddd", linewidth=1)
        axis.set(xscale="log", ylim=(-0.02, 1.02), title=attacker, xlabel="false accept rate")
    axes[0].set(ylabel="share of outputs not matched")
    return _png(figure)


def privacy_against_utility(named: Mapping[str, Mapping[str, Any]]) -> bytes:
    """A point each report, by its name: the best attacker's rank-1 against expression and looks."""
    figure, axes = _axes(8.0, 3.4, len(PANELS))
    for axis, (part, key) in zip(axes, PANELS, strict=True):
        for color, (name, metrics) in zip(COLORS * 9, named.items(), strict=False):
            x, y = metrics["best"]["rank1"], metrics[part][key]["value"]
            around = [[x["value"] - x["low"]], [x["high"] - x["value"]]]
            axis.errorbar([x["value"]], [y], xerr=around, fmt="o", color=color, markersize=5)
            axis.annotate(
                name, (x["value"], y), (5, 4), textcoords="offset points", fontsize=8, color=color
            )
        heading = next(iter(named.values()))[part][key]
        axis.set(xlabel="rank-1 of the best attacker (lower is safer)", xlim=(-0.03, 1.03))
        axis.set_ylabel(f"{heading['heading']} {heading['better']}", fontsize=8)
    return _png(figure)


def _axes(width: float, height: float, count: int) -> "tuple[Figure, Sequence[Axes]]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return figure, axes


def _png(figure: "Figure") -> bytes:
    # Without the library's name and version in the file, the same figures give the same bytes.
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130, metadata={"Software": None})
    return content.getvalue()
