"""Fits the small heads of `deid.nets.mobile_stylegan` to the generator's own pictures.

A head draws what the 1024 px picture of the same w is when reduced by area. Its straight part is
solved for (least squares), then its bent part is trained for what is left.

    python -m deid.worlds.photo.pretrain.heads --sides 256 512

writes them to where the world is loaded from, with the generator's mean w. 18 minutes of processor
time, beside other work; what a head reads is kept, 2 GB of it at 512 px. The files of the generator
must be in the store (`deid weights fetch --world photo`). Stages are trained, and donors drawn,
through the head for 128 px: with another one of those, train and draw anew.
"""

import argparse
import math
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from deid.nets.mobile_stylegan import MobileStyleGAN, SmallHead
from deid.progress import progress
from deid.seeds import torch_generator
from deid.worlds.cards import hardware, read_verified, write_card
from deid.worlds.photo.generator import OURS, public_generator

HELD_OUT = 8
"""The last pictures, which no head is fitted to."""
SOLVED = 24
"""Pictures of which every pixel enters the least squares."""
BATCH, RATE = 2, 1e-3

LICENSE = "fitted to pictures of a generator under NVIDIA's non-commercial terms: non-commercial"
MEAN_OF = 10_000
"""How many w the mean is taken over."""


@dataclass(frozen=True)
class Examples:
    """w `[N,num_ws,w_dim]` and, by resolution, pictures `[N,3,R,R]` in half precision."""

    ws: Tensor
    pictures: dict[int, Tensor]

    @property
    def fitted(self) -> int:
        """How many may be learned from."""
        return len(self.ws) - HELD_OUT


def fit_heads(
    generator: MobileStyleGAN, pictures: int, steps: int, sides: Collection[int], seed: int = 0
) -> dict[int, float]:
    """Fit the heads of `sides` in place, and leave the others as they are; the PSNR that each one
    reaches on held-out pictures, dB, by resolution."""
    examples = draw_examples(generator, pictures, seed)
    reached = {}
    for side in generator.resolutions[:-1]:
        head = _Head(generator, side, examples)
        if side in sides:
            head.solve()
            head.train(steps, seed)
        reached[side] = head.psnr()
    return reached


@torch.inference_mode()
def draw_examples(generator: MobileStyleGAN, count: int, seed: int) -> Examples:
    """`count` pictures at full resolution, each reduced to every smaller one."""
    full, smaller = generator.resolutions[-1], generator.resolutions[:-1]
    rows, pictures = [], {side: [] for side in smaller}  # type: ignore[var-annotated]
    with progress("heads: pictures", total=count) as bar:
        for index in range(count):
            ws = generator.spread(_draw_w(generator, torch_generator("heads", index, seed)))
            picture = generator.synthesis(ws, full)
            rows.append(ws[0])
            for side in smaller:
                pictures[side].append(F.avg_pool2d(picture, full // side)[0].half())
            bar.advance()
    return Examples(torch.stack(rows), {side: torch.stack(p) for side, p in pictures.items()})


def _draw_w(generator: MobileStyleGAN, random: torch.Generator) -> Tensor:
    """One w, `[1,w_dim]`, truncated at random: between half and not at all."""
    w = generator.mapping(torch.randn(256, generator.z_dim, generator=random))
    psi = 0.5 + 0.5 * torch.rand((), generator=random)
    return w.mean(0, keepdim=True).lerp(w[:1], psi)


class _Head:
    """One head in the making."""

    def __init__(self, generator: MobileStyleGAN, side: int, examples: Examples) -> None:
        head = generator.heads[str(side)]
        assert isinstance(head, SmallHead)
        self.generator, self.side, self.head, self.examples = generator, side, head, examples

    @torch.no_grad()
    def solve(self) -> None:
        """Least squares for the straight part: pictures' wavelets from all that it reads."""
        size = self.head.straight.in_channels + 1
        products, targets = (torch.zeros(size, n, dtype=torch.double) for n in (size, 12))
        for read, picture in self._batches(range(min(SOLVED, self.examples.fitted)), 1):
            columns = torch.cat([*read, torch.ones_like(read[0][:, :1])], 1)[0].flatten(1).double()
            products += columns @ columns.T
            targets += columns @ haar(picture)[0].flatten(1).double().T
        solved = torch.linalg.solve(products + 1e-2 * torch.eye(size), targets).float().T
        self.head.straight.weight.copy_(solved[:, :-1, None, None])
        assert self.head.straight.bias is not None
        self.head.straight.bias.copy_(solved[:, -1])

    def train(self, steps: int, seed: int) -> None:
        """Adam on the mean squared error, with a rate that falls along a cosine."""
        bent = [
            parameter.requires_grad_(True)
            for layer in (self.head.narrow, self.head.hidden, self.head.bent)
            for parameter in layer.parameters()
        ]
        optimizer = torch.optim.Adam(bent, RATE)
        random = torch_generator("heads/batches", self.side, seed)
        rows = torch.randint(0, self.examples.fitted, (steps * BATCH,), generator=random).tolist()
        # Each picture is read once: the generator would take most of a step's time.
        read_once = [
            [part.half() for part in self._read([row])] for row in range(self.examples.fitted)
        ]
        with progress(f"heads: {self.side} px", total=steps) as bar:
            for step in range(steps):
                chosen = rows[step * BATCH : (step + 1) * BATCH]
                parts = zip(*(read_once[row] for row in chosen), strict=True)
                read = [torch.cat(part).float() for part in parts]
                picture = self._pictures(chosen)
                for group in optimizer.param_groups:
                    group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
                loss = F.mse_loss(self.head(*read), picture)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                bar.advance()
        self.head.requires_grad_(False)

    @torch.no_grad()
    def psnr(self) -> float:
        """Peak signal to noise on the held-out pictures, dB; the range of values is 2."""
        held_out = range(self.examples.fitted, len(self.examples.ws))
        errors = [F.mse_loss(self.head(*read), p) for read, p in self._batches(held_out, 1)]
        return 10 * math.log10(4 / torch.stack(errors).mean().item())

    def _batches(
        self, rows: range | list[int], size: int
    ) -> Iterator[tuple[tuple[Tensor, Tensor], Tensor]]:
        """What the head reads, and the pictures it is to draw."""
        for start in range(0, len(rows), size):
            chosen = list(rows[start : start + size])
            yield self._read(chosen), self._pictures(chosen)

    @torch.no_grad()
    def _read(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        return self.generator.features(self.examples.ws[rows], self.side)

    def _pictures(self, rows: list[int]) -> Tensor:
        return self.examples.pictures[self.side][rows].float()


def haar(pictures: Tensor) -> Tensor:
    """`[N,C,2n,2n]` → `[N,4C,n,n]`: the inverse of `inverse_haar`."""
    count, channels, height, width = pictures.shape
    corners = F.pixel_unshuffle(pictures, 2).view(count, channels, 4, height // 2, width // 2)
    a, b, c, d = corners.unbind(2)
    details = torch.stack([a + b - c - d, a - b + c - d, a - b - c + d], 2).flatten(1, 2)
    return torch.cat([a + b + c + d, details], 1) * 0.5


@torch.inference_mode()
def mean_w(generator: MobileStyleGAN) -> Tensor:
    """The mean of w over many z, `[w_dim]`."""
    random = torch_generator("w_mean")
    parts = [torch.randn(MEAN_OF // 10, generator.z_dim, generator=random) for _ in range(10)]
    return torch.cat([generator.mapping(z) for z in parts]).mean(0)


def write_ours(generator: MobileStyleGAN, folder: Path, about: dict[str, object]) -> None:
    """Heads and mean w with their card."""
    network = "small heads of MobileStyleGAN for 128, 256 and 512 px, and its mean w"
    told = {
        "objective": "least squares: wavelets of the 1024 px picture, reduced by area; then its "
        "mean squared error, by Adam, of those sides that are named below",
        "data": "w of random seeds, truncated between 0.5 and 1; the generator's own pictures",
        "license": LICENSE,
    }
    write_card(folder, "heads", generator.ours(), {"network": network, **told, **about})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=90)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--sides", type=int, nargs="+", default=None, help="else all of them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OURS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    began, generator = time.process_time(), public_generator()
    sides = asked.sides or generator.resolutions[:-1]
    if asked.sides:  # the others and the mean w stay
        generator.load_ours(read_verified(OURS, "heads")[0])
    else:
        generator.w_mean.copy_(mean_w(generator))
    reached = fit_heads(generator, asked.pictures, asked.steps, sides, asked.seed)
    figures = {f"psnr_{side}": round(value, 2) for side, value in reached.items()}
    training = {name: getattr(asked, name) for name in ("pictures", "steps", "seed")}
    training["sides"] = list(sides)
    seconds = round(time.process_time() - began)
    about = {"figures": figures, "training": training, "seconds": seconds, "hardware": hardware()}
    write_ours(generator, asked.out, about)


if __name__ == "__main__":
    main()
