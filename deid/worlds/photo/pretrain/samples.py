"""Draws the sample portraits in `data/photo/samples`: people who do not exist, 768 px.

python -m deid.worlds.photo.pretrain.samples
"""

from pathlib import Path

import torch
from PIL import Image

from deid.params import WorldParams
from deid.pixels import Pixels, to_pixels
from deid.seeds import torch_generator
from deid.worlds import load_world
from deid.worlds.world import World

CHOSEN = {"garden": 8, "wall": 7, "park": 4, "room": 0}
"""Name → number of its seed; no training draws these."""
SIDE, TRUNCATION, QUALITY = 768, 0.7, 90
FOLDER = Path("data/photo/samples")


def open_world() -> World:
    """The world, with the truncation of everything that is drawn here."""
    return load_world(WorldParams(name="photo", truncation=TRUNCATION))


def draw_portrait(world: World, number: int) -> Pixels:
    """The person of the seed so numbered, `uint8 [1024,1024,3]`."""
    random = torch_generator("photo/samples", number)
    z = torch.randn(1, world.generator.z_dim, generator=random)
    face = world.draw(world.truncated_mapping(z), 1024)
    portrait: Pixels = to_pixels(face.clamp(-1, 1))[0]
    return portrait


@torch.inference_mode()
def draw_samples(folder: Path) -> None:
    """Write a JPEG for each of `CHOSEN`."""
    world = open_world()
    folder.mkdir(parents=True, exist_ok=True)
    for name, number in CHOSEN.items():
        small = Image.fromarray(draw_portrait(world, number)).resize(
            (SIDE, SIDE), Image.Resampling.LANCZOS
        )
        small.save(folder / f"{name}.jpg", quality=QUALITY)


if __name__ == "__main__":
    draw_samples(FOLDER)
