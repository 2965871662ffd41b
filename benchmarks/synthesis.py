"""How much faster StyleGAN2's synthesis is than its plain form: `python benchmarks/synthesis.py`.

The plain form modulates weights and runs one grouped convolution (`StyleGAN2.fused`, contiguous
memory), as the published code does. Ours scales activations around a shared convolution, in
channels-last memory, and with `--bf16` or `--compile` in that type or compiled. Both are timed in
turn, in one run; only their ratio means anything.
"""

import argparse
import copy
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch

from deid.nets.stylegan2 import StyleGAN2, stylegan2

Synthesis = Callable[[torch.Tensor], torch.Tensor]


def widths(resolution: int) -> list[int]:
    """Configuration F's, from 4 px on."""
    sizes = [4 << i for i in range(resolution.bit_length() - 2)]
    return [min(512, 32768 // size) for size in sizes]


def forms(args: argparse.Namespace) -> dict[str, Synthesis]:
    """Name → synthesis, the plain form first, with the same weights."""
    plain = stylegan2(widths(args.resolution), [512] * 9).eval().requires_grad_(False)
    plain.fused = True
    plain = plain.to(args.device)
    ours = fast(copy.deepcopy(plain))
    found: dict[str, Synthesis] = {"grouped": plain.synthesis, "unfused": ours.synthesis}
    if args.compile:
        found["unfused, compiled"] = torch.compile(ours.synthesis)
    if args.bf16:
        bf16 = found["unfused, compiled"] if args.compile else ours.synthesis
        found["unfused, bf16"] = in_bfloat16(bf16, args.device)
    return found


def fast(network: StyleGAN2) -> StyleGAN2:
    """Our form: unfused, weights in channels-last memory."""
    network.fused = False
    return network.to(memory_format=torch.channels_last)


def in_bfloat16(synthesis: Synthesis, device: str) -> Synthesis:
    """Under autocast."""

    def run(w: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16):
            return synthesis(w)

    return run


def seconds(synthesis: Synthesis, batch: int, backward: bool, device: str) -> float:
    """One synthesis, with `backward` to w as well."""
    w = torch.randn(batch, 512, device=device, requires_grad=backward)
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    wait()
    start = time.perf_counter()
    with nullcontext() if backward else torch.inference_mode():
        images = synthesis(w)
        if backward:
            images.square().mean().backward()
    wait()
    return time.perf_counter() - start


def main() -> None:
    """Print seconds and ratios to the plain form; the best of so many rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    found = forms(args)
    for batch in args.batches:
        for backward in (False, True):
            best = dict.fromkeys(found, float("inf"))
            for _ in range(args.rounds + 1):  # the first warms up
                for name, synthesis in found.items():
                    taken = seconds(synthesis, batch, backward, args.device)
                    best[name] = min(best[name], taken)
            work = "forward + backward" if backward else "forward"
            for name, taken in best.items():
                ratio = best["grouped"] / taken
                print(f"batch {batch}, {work}: {name} {taken:.3f} s, {ratio:.2f} x grouped")


if __name__ == "__main__":
    main()
