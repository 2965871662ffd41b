"""Measures how w differs where a drawn person looks older or otherwise
(`deid.worlds.looks_shifts`).

    python -m deid.worlds.photo.pretrain.shifts

writes it to where the world is loaded from. Ten minutes of one core; the files of the world must
be in the store (`deid weights fetch --world photo`).
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deid.faces.alignment import Points
from deid.imaging.flaws import GLASSES, MAYBE, bridge, fringe
from deid.params import WorldParams
from deid.pixels import Pixels, to_pixels
from deid.worlds import load_world
from deid.worlds.cards import hardware, write_card
from deid.worlds.looks_shifts import LooksShifts
from deid.worlds.photo.generator import OURS
from deid.worlds.photo.pretrain.drawn import BATCH, HELD_OUT, SIDE, draw_faces, drawn
from deid.worlds.world import World

SHAPES = 8
"""Components of landmarks that are to stay: pose, how faces are built, mouth and eyes."""

HANGING = 0.3
"""Of a forehead, beyond which more hair makes no difference."""


@torch.inference_mode()
def seen(world: World, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of people drawn without truncation, whose looks differ most: w `[N,w_dim]`, looks `[N,K]`,
    and what a shift is to leave alone, `[N,S]`: glasses, fringes, shape, how far mouth and eyes are
    open."""
    parts: list[tuple[Tensor, ...]] = []
    landmarks: list[Points] = []
    assert world.looks is not None
    assert world.contours is not None
    for w, faces in draw_faces(world, count, seed, "looks"):
        found = world.landmarks(faces).double().cpu().numpy()
        landmarks.append(found)
        hidden = [hides(*one) for one in zip(to_pixels(faces), found, strict=True)]
        openings = world.contours.openings(world.contours(faces))
        parts.append((w, world.looks(faces), torch.tensor(hidden), openings))
    w, looks, covered, openings = (torch.cat(part) for part in zip(*parts, strict=True))
    shape = torch.from_numpy(shapes(np.concatenate(landmarks)))
    return w[:count], looks[:count], torch.cat([covered, openings, shape], 1)[:count]


def hides(face: Pixels, landmarks: Points) -> tuple[float, float]:
    """How surely somebody wears glasses, and how much hair hangs over the forehead, from 0 to 1."""
    glasses = (bridge(face, landmarks) - MAYBE) / (GLASSES - MAYBE)
    return min(max(glasses, 0.0), 1.0), min(max(fringe(face, landmarks), 0.0) / HANGING, 1.0)


def shapes(landmarks: Points) -> Points:
    """The first components of `landmarks [N,68,2]`, each spread by 1, `[N,SHAPES]`."""
    flat = landmarks.reshape(len(landmarks), -1)
    left, *_ = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    return np.asarray(left[:, :SHAPES] * len(flat) ** 0.5)


@torch.inference_mode()
def reached(world: World, shifts: LooksShifts, w: Tensor, looks: Tensor) -> dict[str, list[float]]:
    """The mean difference of each look between a face and the next one: as they are, and with the
    one shifted."""
    assert world.looks is not None
    wanted = looks.roll(1, 0)
    parts = torch.split(shifts.shifted(w, looks, wanted), BATCH)
    now = torch.cat([world.looks(drawn(world, part)) for part in parts])
    return {"looks_before": _off(looks, wanted), "looks_after": _off(now, wanted)}


def _off(looks: Tensor, wanted: Tensor) -> list[float]:
    return [round(value, 2) for value in (looks - wanted).abs().mean(0).tolist()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OURS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    world = load_world(WorldParams(name="photo", truncation=1.0))
    w, looks, stay = seen(world, asked.count + HELD_OUT, asked.seed)
    shifts = LooksShifts.fitted(w[:-HELD_OUT], looks[:-HELD_OUT], stay[:-HELD_OUT])
    about = {
        "network": "no network: how w differs where a person is older, of the other sex, or of "
        "other skin",
        "objective": "straight maps from w to looks (HSE_FaceRec; skin in Lab), glasses, fringes, "
        "openings of mouth and eyes, and components of landmarks, by ridge regression",
        "data": f"w of random seeds, not truncated; the generator's own pictures, {SIDE} px",
        "license": "made from pictures of a generator under NVIDIA's non-commercial terms: "
        "non-commercial",
        "figures": reached(world, shifts, w[-HELD_OUT:], looks[-HELD_OUT:]),
        "training": {"count": asked.count, "seed": asked.seed},
        "seconds": round(time.process_time() - began),
        "hardware": hardware(),
    }
    write_card(asked.out, "shifts", shifts, about)


if __name__ == "__main__":
    main()
