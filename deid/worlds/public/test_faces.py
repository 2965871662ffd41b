"""Held-out faces of a world of public files: drawn by its generator, or a person's own photographs.

Drawn people come from z of a stream of their own, which no sample of the training set shares. What
StyleGAN's finest layers hold (color, light, texture) is not who somebody is, so another view of a
person is the same w in the coarser layers and a stranger's in the finest (style mixing, Karras et
al. 2019, section 3.1).
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image

from deid.errors import DeidError
from deid.nets.style import truncate
from deid.pixels import Pixels, to_pixels
from deid.seeds import numpy_generator, torch_generator
from deid.worlds.world import Generator, TestFaces

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
_BATCH = 1  # a processor draws one after another faster

Draw = Callable[[int, int, int], TestFaces]


def drawn_faces(generator: Generator, truncation: float = 1.0) -> Draw:
    """(identities, views each, seed) → people whom the generator draws, each in so many views.

    `truncation`: the world's ψ, so that test faces are as varied as the pairs of the training.
    """

    @torch.no_grad()
    def draw(identities: int, views: int, seed: int) -> TestFaces:
        pictures = [
            to_pixels(generator.synthesis(ws))
            for ws in torch.split(_views(generator, truncation, identities, views, seed), _BATCH)
        ]
        return TestFaces(np.concatenate(pictures), np.repeat(np.arange(identities), views))

    return draw


def _views(
    generator: Generator, truncation: float, identities: int, views: int, seed: int
) -> torch.Tensor:
    """w+ `[identities * views, num_ws, w_dim]`."""
    drawn = _w(generator, "ffhq/test people", identities, seed)
    others = _w(generator, "ffhq/test views", identities * views, seed)
    people, strangers = (truncate(w, generator.w_mean, truncation) for w in (drawn, others))
    ws = people.repeat_interleave(views, 0)[:, None].repeat(1, generator.num_ws, 1)
    fine = generator.num_ws - generator.num_ws // 3
    other = torch.arange(identities * views) % views > 0  # the first view is the person's own w
    ws[other, fine:] = strangers[other][:, None]
    return ws


def _w(generator: Generator, name: str, count: int, seed: int) -> torch.Tensor:
    z = [
        torch.randn(generator.z_dim, generator=torch_generator(name, i, seed)) for i in range(count)
    ]
    device = next(cast(torch.nn.Module, generator).parameters()).device
    return generator.mapping(torch.stack(z).to(device))


def photographed_faces(folder: Path, resolution: int) -> Draw:
    """The same from `folder`, which holds a folder of FFHQ-aligned pictures for each person.

    Which people and pictures a seed takes is drawn by it. Raises DeidError where there are too few.
    """

    def draw(identities: int, views: int, seed: int) -> TestFaces:
        people = [files for files in _people(folder) if len(files) >= views]
        if len(people) < identities:
            raise DeidError(
                f"{folder}: {len(people)} people with {views} pictures each, {identities} are "
                "asked for; add some or lower evaluate.identities and evaluate.views"
            )
        random = numpy_generator("ffhq/photographs", 0, seed)
        chosen = [people[i] for i in random.permutation(len(people))[:identities]]
        files = [f for person in chosen for f in random.permutation(np.array(person))[:views]]
        pixels = np.stack([_read(Path(file), resolution) for file in files])
        return TestFaces(pixels, np.repeat(np.arange(identities), views))

    return draw


def _people(folder: Path) -> Iterator[list[str]]:
    if not folder.is_dir():
        raise DeidError(f"{folder}: no such folder; correct world.faces in params.yaml")
    for person in sorted(path for path in folder.iterdir() if path.is_dir()):
        yield sorted(str(f) for f in person.iterdir() if f.suffix.lower() in SUFFIXES)


def _read(path: Path, resolution: int) -> Pixels:
    try:
        with Image.open(path) as image:
            square = image.convert("RGB").resize((resolution, resolution), Image.Resampling.LANCZOS)
    except OSError as error:
        raise DeidError(f"{path}: not a whole picture ({error}); replace it") from None
    return np.asarray(square, np.uint8)
