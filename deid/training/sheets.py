"""Pictures for a person: sheets of samples and loss curves."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from deid.model import Deidentifier
from deid.pixels import to_pixels
from deid.training.held_out import held_out_faces

COLUMNS, SIDE, CAPTION = 10, 112, 110
Row = tuple[str, Tensor]


def stage_one_sheet(model: Deidentifier, path: Path) -> None:
    """Held-out faces: donor, attribute face and swap; then face and reconstruction."""
    faces = held_out_faces(model, 2 * COLUMNS, 1)
    donors, attributes = faces[:COLUMNS], faces[COLUMNS:]
    rows = [
        ("donor", donors),
        ("expression of", attributes),
        ("swap", model.swap(donors, attributes)),
    ]
    rows += [("face", attributes), ("reconstruction", model.reconstruct(attributes))]
    draw_sheet(path, rows)


def stage_two_sheet(model: Deidentifier, path: Path) -> None:
    """Held-out faces: face, reconstruction and adversarial picture with its new similarity."""
    faces = held_out_faces(model, 2 * COLUMNS, 1)
    rows: list[Row] = []
    for block in (faces[:COLUMNS], faces[COLUMNS:]):
        rows += [
            ("face", block),
            ("reconstruction", model.reconstruct(block)),
            ("adversarial", model.adversarial(block)),
        ]
    draw_sheet(path, rows)


def draw_sheet(path: Path, rows: list[Row]) -> None:
    """A PNG with one captioned row of pictures `[n,3,H,W]` for each entry."""
    width = CAPTION + SIDE * max(len(pictures) for _, pictures in rows)
    sheet = Image.new("RGB", (width, SIDE * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for y, (caption, pictures) in enumerate(rows):
        draw.text((6, y * SIDE + SIDE // 2 - 6), caption, fill="black", font_size=14)
        for x, pixels in enumerate(to_pixels(pictures)):
            tile = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            sheet.paste(tile, (CAPTION + x * SIDE, y * SIDE))
    sheet.save(path)


def draw_curves(path: Path, curves: Path, title: str) -> None:
    """A PNG with one panel for each column of a `losses.csv`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with curves.open(newline="") as file:
        table = list(csv.DictReader(file))
    names = [name for name in table[0] if name != "step"]
    figure = Figure(figsize=(3.2 * len(names), 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for axis, name in zip(np.ravel(figure.subplots(1, len(names))), names, strict=True):
        points = [(int(row["step"]), float(row[name])) for row in table if row[name]]
        axis.plot(*zip(*points, strict=True), linewidth=1.0)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Software": None})
