"""FID's features with channels_last against the default layout: `python benchmarks/inception.py`.

Random weights, as speed does not depend on them. The layouts take turns and are measured in CPU
time on one thread, so that other work on the machine counts little; the best times are compared.
In the second layout the weights stay as they are: it is what `deid.worlds.public.faces.Trunk` does.
"""

import argparse
import time

import torch

from deid.nets.inception import fid_inception
from deid.worlds.public.conventions import CONVENTIONS

DEFAULT, LAST = torch.contiguous_format, torch.channels_last
LAYOUTS = {  # of the weights, of the pictures
    "default": (DEFAULT, DEFAULT),
    "channels_last_pictures": (DEFAULT, LAST),
    "channels_last": (LAST, LAST),
}


def main() -> None:
    """Print pictures a second in each layout, ratios, and how far the features differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=256, help="pixels of a picture's side")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    network = fid_inception().eval().requires_grad_(False)
    faces = torch.rand(args.batch, 3, args.size, args.size) * 2 - 1
    pictures = CONVENTIONS["fid_inception"](faces)
    best = dict.fromkeys(LAYOUTS, float("inf"))
    features = {}
    for _ in range(args.rounds + 1):  # the first is for warming up, and cannot be the best
        for name, (weights, layout) in LAYOUTS.items():
            network.to(memory_format=weights)
            start = time.process_time()
            with torch.inference_mode():
                features[name] = network(pictures.contiguous(memory_format=layout))
            best[name] = min(best[name], time.process_time() - start)
    for name, seconds in best.items():
        ratio = best["default"] / seconds
        print(
            f"inception_{name} {args.batch / seconds:.2f} images per CPU second, ratio {ratio:.2f}"
        )
    scale = features["default"].abs().max()
    error = (features["channels_last"] - features["default"]).abs().max() / scale
    print(f"inception_largest_difference {error:.1e} of the largest feature")


if __name__ == "__main__":
    main()
