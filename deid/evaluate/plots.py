"""The figures as PNG, after the paper's Figures 2–4, and two plots of all methods.

Matplotlib is imported in the functions: it takes a second, and only this stage needs it.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from deid.anonymize import REBUILDING_RIVALS, SWAPPING_RIVALS
from deid.evaluate.cells import REFERENCES, TABLES, Bench, Cell, pairing
from deid.evaluate.faces import HeldOut, encode, first_of_each
from deid.evaluate.measures import reporting, similarity
from deid.pixels import Pixels, to_pixels, to_tensor
from deid.storage.staging import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ATTACKS = ("fgsm-0.03", "fgsm-0.1", "pgd-0.1", "mifgsm-0.1", "tidim-0.1", "adversarial")
"""The paper's Figure 2, and stronger attacks."""
TRADITIONAL = ("blur", "pixelate", "mask", "swap-sampled")
# Okabe and Ito's palette, which color-blind readers can tell apart.
COLORS = {
    "fgsm-0.03": "#56B4E9",
    "fgsm-0.1": "#0072B2",
    "pgd": "#009E73",
    "pgd-0.1": "#00573F",
    "mifgsm-0.1": "#1B2A8F",
    "tidim-0.1": "#6A3D9A",
    "adversarial": "#D55E00",
    "blur": "#999999",
    "pixelate": "#777777",
    "mask": "#444444",
    "swap": "#E69F00",
    "swap-sampled": "#CC79A7",
    "reconstruction": "#F0C000",
}
OTHERS = "#8C564B"
"""Of methods that only `evaluate.methods` asks for."""

ROWS = 5
SHOWN, ACROSS = 40, 8
"""Faces of the contact sheet, the most that a figure shows, and how many in a row."""

Metrics = Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]
Pictures = Callable[[str, str], Pixels]
"""(table, method) → what it made of the `SHOWN` faces (`first_of_each`)."""


def draw_figures(
    bench: Bench,
    faces: HeldOut,
    metrics: Metrics,
    cells: Mapping[str, Cell],
    pictures: Pictures,
    folder: Path,
) -> None:
    """Write fig2.png, fig3.png, fig4.png, methods.png, sheet.png, tradeoff.png, histogram.png: of
    repetition 0's `faces`, and of what the tables were measured on."""
    shown = Shown(bench, faces, pictures)
    swapping, rebuilding = (
        [name for name in rivals if name in metrics[table]]
        for table, rivals in (("table2", SWAPPING_RIVALS), ("table3", REBUILDING_RIVALS))
    )
    rebuilt = (*rebuilding, "reconstruction")
    drawn = {
        "fig2": _comparison(shown, ATTACKS),
        "fig3": _swaps(shown, (*swapping, "swap")) if swapping else _swap_grid(shown),
        "fig4": _comparison(shown, rebuilt, "table3", turned=True),
        "methods": _comparison(shown, TRADITIONAL),
        "sheet": _sheet(shown),
        "tradeoff": _tradeoff(metrics, bench.world.metric_features.fid_label),
        "histogram": _histogram(bench, faces, cells),
    }
    for name, figure in drawn.items():
        write_atomically(folder / f"{name}.png", png(figure))


@dataclass(frozen=True)
class Shown:
    """The faces that figures show (`first_of_each`), and what methods made of them."""

    bench: Bench
    faces: HeldOut  # all of them
    pictures: Pictures

    @cached_property
    def few(self) -> NDArray[np.int64]:
        """Which of the faces most figures show."""
        return first_of_each(self.faces, ROWS)

    @cached_property
    def donors(self) -> NDArray[np.int64]:
        """Which faces are theirs in Table 2."""
        return pairing(self.faces)[self.few]

    def originals(self, which: NDArray[np.int64]) -> Pixels:
        """`uint8 [N,R,R,3]`"""
        return to_pixels(self.faces.images[torch.from_numpy(which)])

    def made(self, table: str, method: str) -> Pixels:
        """What became of the few, `uint8 [N,R,R,3]`."""
        return self.pictures(table, method)[: len(self.few)]

    def cosines(self, pixels: Pixels, which: NDArray[np.int64]) -> list[str]:
        """How like the faces `which` pictures are."""
        made = encode(self.bench.world, to_tensor(pixels), self.bench.batch_size)
        cosines = similarity(self.bench.world, self.faces.encoded.rows(which), made)
        return [f"{value:.2f}" for value in cosines]


def _comparison(
    shown: Shown, methods: Sequence[str], table: str = "table1", turned: bool = False
) -> "Figure":
    """A row a face (a column where `turned`): the original and what each method makes of it."""
    columns = [("original", shown.originals(shown.few), [""] * len(shown.few))]
    for method in methods:
        made = shown.made("table2" if method in TABLES["table2"] else table, method)
        columns.append((method, made, shown.cosines(made, shown.few)))
    return _columns(columns, turned)


def _swaps(shown: Shown, methods: Sequence[str]) -> "Figure":
    """A row a pair, as in the paper's Figure 3: identity, expression and each method's swap, with
    its likeness to the donor."""
    blank = [""] * len(shown.few)
    columns = [
        ("identity", shown.originals(shown.donors), blank),
        ("expression", shown.originals(shown.few), blank),
    ]
    for method in methods:
        made = shown.made("table2", method)
        columns.append((method, made, shown.cosines(made, shown.donors)))
    return _columns(columns)


def _columns(columns: Sequence[tuple[str, Pixels, list[str]]], turned: bool = False) -> "Figure":
    """A column (a row where `turned`) for each name, pictures and captions."""
    count = len(columns[0][2])
    shape = (len(columns), count) if turned else (count, len(columns))
    figure, axes = _grid(*shape)
    for c, (name, pictures, captions) in enumerate(columns):
        for r, caption in enumerate(captions):
            axis = axes[c, r] if turned else axes[r, c]
            _picture(axis, pictures[r], caption)
            if r == 0 and turned:
                axis.set_ylabel(name, fontsize=9)
            elif r == 0:
                axis.set_title(name, fontsize=10)
    return figure


def _sheet(shown: Shown) -> "Figure":
    """Many faces, each above what the product's own swap makes of it."""
    above = shown.originals(first_of_each(shown.faces, SHOWN))
    below = shown.pictures("table2", "swap-sampled")
    rows = -(-len(above) // ACROSS)
    figure, axes = _grid(2 * rows, min(ACROSS, len(above)))
    for axis in axes.flat:
        axis.set_axis_off()
    for index, pair in enumerate(zip(above, below, strict=True)):
        row, column = divmod(index, ACROSS)
        for side, pixels in enumerate(pair):
            axes[2 * row + side, column].imshow(pixels, interpolation="bicubic")
    return figure


@torch.no_grad()
def _swap_grid(shown: Shown) -> "Figure":
    """Donors at the left, attribute faces on top, as in the paper's Figure 3."""
    model, faces = shown.bench.model(), shown.faces.images[torch.from_numpy(shown.few)]
    donors = shown.donors[:4]
    figure, axes = _grid(len(donors) + 1, len(faces) + 1)
    axes[0, 0].axis("off")
    axes[0, 0].text(0.5, 0.5, "identity ↓\nexpression →", ha="center", va="center", fontsize=9)
    for c, picture in enumerate(to_pixels(faces)):
        _picture(axes[0, c + 1], picture, "")
    for r, (donor, picture) in enumerate(zip(donors, shown.originals(donors), strict=True)):
        _picture(axes[r + 1, 0], picture, "")
        repeated = shown.faces.images[[int(donor)] * len(faces)]
        for c, swapped in enumerate(to_pixels(model.swap(repeated, faces))):
            _picture(axes[r + 1, c + 1], swapped, "")
    return figure


def _tradeoff(metrics: Metrics, fid_label: str) -> "Figure":
    """A dot a method: how similar to the original, how far from its distribution."""
    # Of a rival that is in several tables, the first: there it anonymizes.
    tables = (metrics[table] for table in ("table3", "table2", "table1"))
    rows = {name: row for table in tables for name, row in table.items() if name not in REFERENCES}
    figure, axis = _axes(6.4, max(4.2, 0.28 * len(rows)))  # room for each label
    points = {}
    for method in rows:
        x, y = rows[method]["id_similarity"], rows[method]["fid"]
        points[method], color = (x["mean"], y["mean"]), COLORS.get(method, OTHERS)
        axis.errorbar(*points[method], xerr=x["std"], yerr=y["std"], fmt="o", color=color)
    axis.set(xlabel="identity similarity with the original, reporting recognizers (lower is safer)")
    axis.set(ylabel=f"{fid_label}\n(lower is nearer to real)", yscale="log")
    axis.margins(0.14)
    figure.draw_without_rendering()  # settles the layout, without which labels cannot be placed
    _label(axis, points)
    return figure


def _label(axis: "Axes", points: Mapping[str, tuple[float, float]]) -> None:
    """Names beside the dots, from the lowest up, each pushed above what it would cover; a line
    leads to a name that is not beside its dot."""
    dots = {method: axis.transData.transform(point) for method, point in points.items()}
    placed: list[tuple[float, float]] = []
    for method, point in sorted(points.items(), key=lambda item: item[1][1]):
        x, y = dots[method]
        top = y
        beside = [(dot_x, dot_y) for dot_x, dot_y in dots.values() if 0 < dot_x - x < 90]
        for other_x, other_y in sorted([*placed, *beside], key=lambda place: place[1]):
            if abs(other_x - x) < 90 and abs(other_y - top) < 15:  # a label's size, in dots
                top = other_y + 15
        placed.append((x, top))
        offset = (7.0, 0.72 * (top - y) - 3.0)
        line = {"arrowstyle": "-", "linewidth": 0.5, "color": "#888888"} if top > y else None
        axis.annotate(
            method, point, offset, textcoords="offset points", fontsize=9, arrowprops=line
        )


def _histogram(bench: Bench, faces: HeldOut, cells: Mapping[str, Cell]) -> "Figure":
    """How similar each method's outputs are to their originals, beside pairs of different
    people."""
    from matplotlib.figure import Figure

    methods, bins = (*ATTACKS, "swap-sampled"), np.linspace(-0.6, 1.0, 65).tolist()
    strangers = np.mean([faces.impostors[name] for name in reporting(bench.world)], axis=0)
    figure = Figure(figsize=(6.4, 0.62 * len(methods) + 0.6), layout="constrained")
    axes = figure.subplots(len(methods), 1, sharex=True)
    for method, axis in zip(methods, axes, strict=True):
        shown = np.clip(cells[method].similarities, bins[0], bins[-1])
        axis.hist(strangers, bins=bins, density=True, color="#dddddd")
        axis.hist(shown, bins=bins, density=True, color=COLORS[method], alpha=0.8)
        axis.set(yticks=[])
        axis.set_ylabel(method, rotation=0, ha="right", va="center", fontsize=9)
        axis.spines[["top", "right", "left"]].set_visible(False)
    axes[-1].set_xlabel("cosine with the original, mean of the reporting recognizers")
    return figure


def _axes(width: float, height: float) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _grid(rows: int, columns: int) -> "tuple[Figure, Any]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.35 * columns, 1.45 * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _picture(axis: "Axes", pixels: Pixels, caption: str) -> None:
    axis.imshow(pixels, interpolation="bicubic")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.set_xlabel(caption, fontsize=9, labelpad=2)


def png(figure: "Figure") -> bytes:
    """The figure as a file."""
    content = io.BytesIO()
    # Without the library's name and version in the file, the same figures give the same bytes.
    figure.savefig(content, format="png", dpi=120, metadata={"Software": None})
    return content.getvalue()
