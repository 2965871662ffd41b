"""FID's features with channels_last against the default layout: `python benchmarks/inception.py`.

Random weights, as speed does not depend on them. The two layouts take turns, so that a load on the
machine falls on both; the ratio of their best times is printed.
"""

import argparse
import time

import torch
from torch import nn

from deid.nets.inception import fid_inception
from deid.worlds.ffhq.conventions import CONVENTIONS
from deid.worlds.ffhq.faces import Trunk

LAYOUTS = {"default": torch.contiguous_format, "channels_last": torch.channels_last}


def main() -> None:
    """Print pictures a second in both layouts, their ratio, and how far the features differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=256, help="pixels of a picture's side")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    network = fid_inception().eval().requires_grad_(False)
    pictures = torch.rand(args.batch, 3, args.size, args.size) * 2 - 1
    best = dict.fromkeys(LAYOUTS, float("inf"))
    features = {}
    for _ in range(args.rounds + 1):  # the first is for warming up, and cannot be the best
        for name, layout in LAYOUTS.items():
            trunk = laid_out(network, layout)
            start = time.perf_counter()
            with torch.inference_mode():
                features[name] = trunk(pictures)
            best[name] = min(best[name], time.perf_counter() - start)
    for name, seconds in best.items():
        print(f"inception_{name}_images_per_second {args.batch / seconds:.2f}")
    print(f"inception_channels_last_ratio {best['default'] / best['channels_last']:.2f}")
    scale = features["default"].abs().max()
    error = (features["channels_last"] - features["default"]).abs().max() / scale
    print(f"inception_largest_difference {error:.1e} of the largest feature")


def laid_out(network: nn.Module, layout: torch.memory_format) -> Trunk:
    """The same weights in a memory layout, which a convolution's output then has as well."""
    return Trunk(network.to(memory_format=layout), CONVENTIONS["fid_inception"], 2048)


if __name__ == "__main__":
    main()
