"""What a run would do, drawn into the original: `--dry-run`.

A preview shows the faces that a run would hide. So it is a file of its own kind (`.preview.png`),
marked in the picture too, in the record, and written only where the person said.
"""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from deid.images import Pixels
from deid.photo.face import Face, FaceRecord

SUFFIX = ".preview.png"
REASON = "a preview, which shows original faces; nothing was de-identified"
CHANGED, SPARED = (220, 40, 40), (40, 160, 60)


def draw_preview(picture: Pixels, faces: Sequence[Face]) -> bytes:
    """A PNG of `uint8 [H,W,3]` with a box around each face: red for changed, green for spared."""
    image = Image.fromarray(np.asarray(picture))
    pen = ImageDraw.Draw(image)
    width = max(2, min(picture.shape[:2]) // 200)
    for number, face in enumerate(faces, 1):
        box = [round(float(value)) for value in face.box]
        colour = SPARED if face.spared else CHANGED
        pen.rectangle(
            (box[0], box[1], max(box[0], box[2]), max(box[1], box[3])), None, colour, width
        )
        pen.text((box[0] + width + 1, box[1] + width), f"{number} {face.rung}", colour)
    pen.text((width, width), "PREVIEW: original faces", CHANGED)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def planned(face: Face) -> FaceRecord:
    """The record of a face that nothing was done to."""
    record = face.record()
    verdict = record.verdict if face.spared else "previewed"
    return FaceRecord(**{**vars(record), "verdict": verdict})
