"""How fast the renderer of the mini world is: `python benchmarks/renderer.py`, one thread."""

import argparse
import time

import torch

from deid.worlds.mini.render.parameters import random_parameters
from deid.worlds.mini.render.renderer import render
from deid.worlds.mini.render.scenes import render_scene


def main() -> None:
    """Print pictures and scenes a second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=64, help="pixels of a picture's side")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5, help="the best of so many is printed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    parameters = torch.from_numpy(random_parameters(range(args.batch), seed=0))
    render(parameters, args.size)
    seconds = min(_timed(lambda: render(parameters, args.size)) for _ in range(args.rounds))
    print(f"renderer_images_per_second {args.batch / seconds:.1f} ({args.size} px, one thread)")
    seconds = min(_timed(lambda: render_scene(1, 3, (192, 192))) for _ in range(args.rounds))
    print(f"scenes_per_second {1 / seconds:.1f} (192 x 192, three people)")


def _timed(work: object) -> float:
    start = time.perf_counter()
    assert callable(work)
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
