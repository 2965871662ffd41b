"""The sample pictures that come with the project: scenes of mini people, to try the program on.

python -m deid.worlds.mini.render.samples data/samples
"""

import io
import sys
from pathlib import Path

from PIL import Image

from deid.storage.staging import write_atomically
from deid.worlds.mini.render.scenes import render_scene

SAMPLES = {
    # name: seed, people, (height, width); chosen by eye among the first dozen seeds
    "portrait": (5, 1, (256, 192)),
    "pair": (10, 2, (224, 288)),
    "friends": (0, 3, (256, 384)),
    "close": (11, 3, (256, 384)),
    "family": (2, 4, (288, 384)),
    "team": (9, 5, (256, 384)),
}


def write_samples(folder: Path) -> None:
    """Write each of `SAMPLES` as a PNG into `folder`."""
    for name, (seed, people, size) in SAMPLES.items():
        scene = render_scene(seed, people, size)
        out = io.BytesIO()
        Image.fromarray(scene.pixels).save(out, format="PNG", optimize=True)
        write_atomically(folder / f"{name}.png", out.getvalue())


if __name__ == "__main__":
    write_samples(Path(sys.argv[1] if len(sys.argv) > 1 else "data/samples"))
