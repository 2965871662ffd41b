"""Composes the group scenes in `data/photo/samples`: people who do not exist, of different size,
side by side before one background out of focus.

python -m deid.worlds.photo.pretrain.scenes
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from deid.imaging.scene import compose
from deid.worlds.photo.pretrain.samples import FOLDER, draw_portrait, open_world

SCENES = {
    "family": {52: 720, 54: 470, 13: 680, 53: 500},
    "team": {35: 520, 65: 600, 63: 640, 60: 580, 70: 540},
    "friends": {12: 640, 67: 520, 59: 620},
}
"""Name → who stands there, from left to right (number of a seed → side of the portrait, pixels)."""
QUALITY = 86


@torch.inference_mode()
def draw_scenes(folder: Path) -> None:
    """Write a JPEG for each of `SCENES`."""
    world = open_world()
    for name, people in SCENES.items():
        portraits = [
            np.asarray(
                Image.fromarray(draw_portrait(world, number)).resize(
                    (side, side), Image.Resampling.LANCZOS
                )
            )
            for number, side in people.items()
        ]
        Image.fromarray(compose(portraits)).save(folder / f"{name}.jpg", quality=QUALITY)


if __name__ == "__main__":
    draw_scenes(FOLDER)
