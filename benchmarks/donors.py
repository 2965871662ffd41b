"""For whom donors could have been drawn, and how many people share one, by the size of the pool.

    python benchmarks/donors.py PICTURES [--count 100] [--told 16]

PICTURES is a folder of aligned faces, each of another person, worked on at 128 px. Donors are drawn
as a swap draws them, before any flaw of the drawn face is looked at, but of the person's sex.
Figures are means of 20 draws, as `deid.attack.donors` makes them, of donors that are known.
`--told`: of so many swaps, as drawn, how often En_id takes the right donor for the nearest, of all
and of 24.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from photographs import portraits
from torch import Tensor

from deid.anonymize import ModelPaths, build_swap
from deid.anonymize.donor_pool import DonorPool
from deid.anonymize.swap import NEAR, Swap
from deid.attack.donors import Crowds, eligible
from deid.batch.bundle import shipped_bundle
from deid.nets.backbones import at_size
from deid.params import AnonymizeParams
from deid.seeds import torch_generator
from deid.worlds import load_world
from deid.worlds.world import World

SIDE, DRAWS = 128, 20
POOLS = (None, 96, 48, 24, 12, 8)


@torch.inference_mode()
def main() -> None:
    """Print the figures, a line a pool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--told", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    bundle = shipped_bundle("photo")
    assert bundle is not None, "stages of photo come with deid"
    world = load_world(bundle.world)
    faces = at_size(portraits(args.pictures, args.count), SIDE)
    for size in POOLS:
        print(size or "all", crowded(world, bundle.anonymize, faces, size), flush=True)
    models = ModelPaths(bundle.stage_one)
    for size in (None, 24):
        settings = bundle.anonymize.model_copy(update={"swap_pool": size})
        swap = build_swap(world, models, settings)
        if args.told:
            print("told, of", size or "all", told(swap, faces[: args.told]), flush=True)


def crowded(
    world: World, settings: AnonymizeParams, faces: Tensor, size: int | None
) -> dict[str, float]:
    """Figures of a pool, and how far its donors are off in age."""
    assert world.donors is not None
    assert world.looks is not None
    settings = settings.model_copy(update={"swap_pool": size})
    pool = DonorPool.of(world.donors, settings.swap_keep, size)
    can = np.stack([eligible(pool, settings, world, face) for face in faces.split(1)])  # [N,D]
    years = torch.cat([world.looks(face) for face in faces.split(1)])[:, 0]
    people, rows = np.arange(len(faces)), []
    for seed in range(DRAWS):
        random = np.random.default_rng(seed)
        donor = np.array([random.choice(np.flatnonzero(row)) for row in can])
        figures = Crowds(len(pool.codes), donor, can[:, donor].T, people).figures()
        figures["candidates_least"] = int(can[:, donor].sum(axis=0).min())
        figures["years"] = 12 * float((pool.looks[donor, 0] - years).abs().mean())
        rows.append(figures)
    return {name: round(float(np.mean([row[name] for row in rows])), 3) for name in rows[0]}


def told(swap: Swap, faces: Tensor) -> str:
    """How many donors of the pool En_id takes for more like the output than the right one."""
    bank, world, ranks = swap.bank, swap.world, []
    assert bank is not None
    assert world.looks is not None
    for index, face in enumerate(faces.split(1)):
        random = torch_generator("donor", 0, index)
        person = world.identity(face)[0], world.looks(face)[0]
        donor = bank.choose(*person, swap.max_similarity, NEAR, random)
        similarity = bank.drawn @ world.identity(swap.given(donor[None], face))[0]
        ranks.append(int((similarity > similarity[(bank.codes @ donor).argmax()]).sum()))
    return f"first {np.mean(np.array(ranks) == 0):.2f}, median place {1 + np.median(ranks):.0f}"


if __name__ == "__main__":
    main()
