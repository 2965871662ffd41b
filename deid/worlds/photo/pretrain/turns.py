"""Measures how w differs where a drawn head is turned otherwise (`deid.worlds.head_turns`).

    python -m deid.worlds.photo.pretrain.turns

writes it to where the world is loaded from. Five minutes of one core; the files of the world must
be in the store (`deid weights fetch --world photo`).
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deid.faces.alignment import Points
from deid.faces.head_turn import head_turn
from deid.params import WorldParams
from deid.worlds import load_world
from deid.worlds.cards import hardware, write_card
from deid.worlds.head_turns import HeadTurns
from deid.worlds.photo.generator import OURS
from deid.worlds.photo.pretrain.drawn import BATCH, HELD_OUT, SIDE, draw_faces, drawn
from deid.worlds.world import World

TRUNCATION = 0.7


@torch.inference_mode()
def seen(world: World, count: int, seed: int) -> tuple[Tensor, Points]:
    """w `[N,w_dim]` of people whom the generator draws, and their landmarks `[N,68,2]` in sides of
    the picture."""
    latents: list[Tensor] = []
    landmarks: list[Points] = []
    for w, faces in draw_faces(world, count, seed, "head turns"):
        latents.append(w)
        landmarks.append(world.landmarks(faces).double().cpu().numpy() / SIDE)
    return torch.cat(latents)[:count], np.concatenate(landmarks)[:count]


@torch.inference_mode()
def reached(world: World, turns: HeadTurns, w: Tensor, landmarks: Points) -> dict[str, float]:
    """The mean turn left between each face and the next one, in sides of the picture for each
    distance of the eyes in depth: as they are, and with the head of the one turned."""
    wanted = np.roll(landmarks, 1, axis=0)
    now = [
        world.landmarks(drawn(world, part)).double().cpu().numpy() / SIDE
        for part in torch.split(turns.turned(w, landmarks, wanted), BATCH)
    ]
    return {
        "turn_before": _left(landmarks, wanted),
        "turn_after": _left(np.concatenate(now), wanted),
    }


def _left(landmarks: Points, wanted: Points) -> float:
    turns = [head_turn(*pair) for pair in zip(landmarks, wanted, strict=True)]
    return round(float(np.linalg.norm(turns, axis=1).mean()), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OURS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    world = load_world(WorldParams(name="photo", truncation=TRUNCATION))
    w, landmarks = seen(world, asked.count + HELD_OUT, asked.seed)
    turns = HeadTurns.fitted(w[:-HELD_OUT], landmarks[:-HELD_OUT])
    about = {
        "network": "no network: how w differs where a head is turned right or down",
        "objective": "ridge regression of w on landmarks (face-api's network)",
        "data": f"w of random seeds, truncated by {TRUNCATION}; the generator's own pictures",
        "license": "made from pictures of a generator under NVIDIA's non-commercial terms: "
        "non-commercial",
        "figures": reached(world, turns, w[-HELD_OUT:], landmarks[-HELD_OUT:]),
        "training": {"count": asked.count, "seed": asked.seed},
        "seconds": round(time.process_time() - began),
        "hardware": hardware(),
    }
    write_card(asked.out, "turns", turns, about)


if __name__ == "__main__":
    main()
