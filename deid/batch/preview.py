"""What a run would do, drawn into the original: `--dry-run`.

A preview shows the faces that a run would hide. So it is a file of its own kind (`.preview.png`),
marked in the picture too, in the record, and written only where the person said.
"""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from deid.gate.face import Face
from deid.gate.record import FaceRecord
from deid.pixels import Pixels

REASON = "a preview, which shows original faces; nothing was de-identified"
CHANGED, KEPT = (200, 30, 30), (20, 120, 45)
PAPER = (255, 255, 255)
SMALLEST_TYPE = 10  # pixels


def draw_preview(picture: Pixels, faces: Sequence[Face]) -> bytes:
    """A PNG of `uint8 [H,W,3]` with a box around each face: red for changed, green for kept.

    Lines and labels grow with the picture, so that they are read when the whole of it is shown.
    """
    image = Image.fromarray(np.asarray(picture))
    pen = ImageDraw.Draw(image)
    shorter = min(picture.shape[:2])
    width, largest = max(2, shorter // 250), max(SMALLEST_TYPE + 3, shorter // 32)
    for number, face in enumerate(faces, 1):
        x0, y0, x1, y1 = (round(float(value)) for value in face.geometry.box)
        x1, y1 = max(x0, x1), max(y0, y1)
        color = KEPT if face.kept else CHANGED
        edge = max(1, width // 3)  # a pale line outside, for dark and for red pictures
        pen.rectangle((x0 - edge, y0 - edge, x1 + edge, y1 + edge), None, PAPER, edge)
        pen.rectangle((x0, y0, x1, y1), None, color, width)
        label = f"{number} {face.level}"
        size = int(np.clip(1.8 * (x1 - x0) / len(label), SMALLEST_TYPE, largest))
        _label(pen, (x0, y0), label, size, color)
    _label(pen, (0, image.height), "PREVIEW: original faces", largest, CHANGED)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _label(
    pen: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    text: str,
    size: int,
    color: tuple[int, int, int],
) -> None:
    """White on a plate of `color` that stands on `corner`, or as near as it is in the picture."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font_size=size)
    margin = max(2, size // 5)
    wide, high = right - left + 2 * margin, bottom - top + 2 * margin
    x = min(max(0, corner[0]), max(0, pen.im.size[0] - round(wide)))
    y = max(0, corner[1] - round(high))
    pen.rectangle((x, y, x + wide - 1, y + high - 1), color)
    pen.text((x + margin - left, y + margin - top), text, PAPER, font_size=size)


def planned(face: Face) -> FaceRecord:
    """The record of a face that nothing was done to."""
    record = face.record()
    verdict = record.verdict if face.kept else "previewed"
    return FaceRecord(**{**vars(record), "verdict": verdict})
