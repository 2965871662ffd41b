"""Rendered people who are in no training."""

import numpy as np
import torch

from deid.pixels import to_pixels
from deid.seeds import seed_of
from deid.worlds.mini.generator import RESOLUTION
from deid.worlds.mini.render.parameters import identity_views
from deid.worlds.mini.render.renderer import render
from deid.worlds.world import TestFaces


def held_out_faces(identities: int, views: int, seed: int) -> TestFaces:
    """`identities` people in `views` pictures each; their seeds come from another stream."""
    parameters = identity_views(range(identities), views, seed_of("mini/test_faces", 0, seed))
    parts = torch.from_numpy(parameters).tensor_split(max(1, len(parameters) // 64))
    pictures = [to_pixels(render(part, RESOLUTION).images) for part in parts]
    return TestFaces(np.concatenate(pictures), np.repeat(np.arange(identities), views))
