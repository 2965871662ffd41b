"""A sheet to look at: pictures across, what was done to them down.

python -m benchmarks.example_sheet docs/photographs.png original=data/photo/samples swap=out/photos
"""

import io
import sys
from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageDraw

from deid.errors import DeidError
from deid.imaging.codec import SUFFIXES, decode
from deid.storage.staging import write_atomically

HEIGHT, GAP, LABEL = 180, 6, 84
PAPER, INK = (255, 255, 255), (40, 40, 40)


def example_sheet(folders: Mapping[str, Path], out: Path, most: int = 4) -> None:
    """Write `out` (PNG): a row for each label and folder, a column for each of `most` pictures.

    The pictures are those that every folder holds, by name.
    """
    held = [
        {path.name for path in folder.glob("*") if path.suffix.lower() in SUFFIXES}
        for folder in folders.values()
    ]
    names = sorted(set.intersection(*held))[:most] if held else []
    if not names:
        raise DeidError(f"{', '.join(map(str, folders.values()))}: no picture in all of them")
    rows = [[_shown(folder / name) for name in names] for folder in folders.values()]
    width = LABEL + sum(image.width + GAP for image in rows[0])
    sheet = Image.new("RGB", (width, len(rows) * (HEIGHT + GAP) - GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, (label, row) in enumerate(zip(folders, rows, strict=True)):
        x, y = LABEL, index * (HEIGHT + GAP)
        draw.text((8, y + HEIGHT // 2), label, fill=INK, font_size=14, anchor="lm")
        for image in row:
            sheet.paste(image, (x, y))
            x += image.width + GAP
    data = io.BytesIO()
    sheet.save(data, format="PNG", optimize=True)
    write_atomically(out, data.getvalue())


def _shown(path: Path) -> Image.Image:
    image = Image.fromarray(decode(path.read_bytes(), str(path)).pixels)
    width = round(image.width * HEIGHT / image.height)
    return image.resize((width, HEIGHT), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    pairs = (argument.partition("=") for argument in sys.argv[2:])
    example_sheet({label: Path(folder) for label, _, folder in pairs}, Path(sys.argv[1]))
