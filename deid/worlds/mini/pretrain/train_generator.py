"""Trains the mini world's generator: the renderer, distilled into a StyleGAN2.

z is N(0, I) and means the renderer's parameters; the generator learns to draw what the renderer
draws. Two single-threaded processes share each batch, which on two cores is faster than one process
with two threads and suffers less beside other work. A killed run goes on from `<out>.partial`.

    python -m deid.worlds.mini.pretrain.train_generator --steps 5000 --out FOLDER
"""

import argparse
import json
import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from deid.nets.stylegan2 import StyleGAN2
from deid.pixels import to_pixels, to_tensor
from deid.progress import progress
from deid.seeds import numpy_generator, seed_of
from deid.storage.staging import resumable_directory
from deid.worlds.mini.cards import hardware, write_card
from deid.worlds.mini.generator import mini_generator
from deid.worlds.mini.pretrain.dataset import Renders
from deid.worlds.mini.pretrain.distillation import distillation_loss, psnr, regions
from deid.worlds.mini.pretrain.optimizer import MatrixOptimizer

CHECKPOINT = "checkpoint.pt"
NAME, SHEET = "generator", "sheet.png"
VALIDATION = 256  # pictures


@dataclass(frozen=True)
class Options:
    """Everything that shapes the result."""

    steps: int = 5_000
    batch: int = 32
    processes: int = 2
    rate: float = 0.03
    warmup: int = 100
    averaging: float = 0.999
    bfloat16: bool = True
    seed: int = 0


def learning_rate(step: int, options: Options) -> float:
    """Linear warm-up, then a cosine to a hundredth."""
    if step < options.warmup:
        return options.rate * (step + 1) / options.warmup
    share = (step - options.warmup) / max(1, options.steps - options.warmup)
    return options.rate * (0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2)


def batch_rows(step: int, count: int, options: Options) -> NDArray[np.int64]:
    """The rows of a step: epochs of `count` rows, each in an order of its own."""
    positions = np.arange(step * options.batch, (step + 1) * options.batch)
    rows = [_order(p // count, count, options.seed)[p % count] for p in positions.tolist()]
    return np.array(rows, np.int64)


@lru_cache(maxsize=2)
def _order(epoch: int, count: int, seed: int) -> NDArray[np.int64]:
    return numpy_generator("mini/generator/epoch", epoch, seed).permutation(count)


class Trainer:
    """One process's share of the training; rank 0 also averages, checkpoints and looks."""

    def __init__(self, renders: Renders, options: Options, rank: int) -> None:
        torch.manual_seed(seed_of("mini/generator", 0, options.seed))
        self.renders, self.options, self.rank = renders, options, rank
        self.pictures = renders.split("train")
        self.net, self.average = mini_generator(), mini_generator()
        self.average.load_state_dict(self.net.state_dict())
        self.average.requires_grad_(False)
        self.forward: nn.Module = self.net
        if options.processes > 1:
            self.forward = DistributedDataParallel(self.net, forward_sync_buffers=False)
        self.optimizer = MatrixOptimizer(self.net.parameters(), options.rate)
        self.step, self.seconds = 0, 0.0

    def train_step(self) -> float:
        options = self.options
        rows = batch_rows(self.step, len(self.pictures), options)[self.rank :: options.processes]
        mine = self.pictures[rows]
        z, rendered, landmarks = load(self.renders, mine)
        with torch.autocast("cpu", torch.bfloat16) if options.bfloat16 else nullcontext():
            generated = self.forward(z)
        masks = regions(landmarks, self.net.resolution)
        # The mean first, then the median: squares find their way sooner, absolutes end sharper.
        loss = distillation_loss(generated, rendered, masks, absolute=self.step / options.steps)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step(learning_rate(self.step, options))
        self.step += 1
        self._follow()
        return loss.item()

    def _follow(self) -> None:
        """Move the averaged weights; early on the average is short, so that it is of use soon."""
        decay = min(self.options.averaging, (1 + self.step) / (10 + self.step))
        for slow, fast in zip(self.average.parameters(), self.net.parameters(), strict=True):
            slow.lerp_(fast.detach(), 1 - decay)

    def save(self, path: Path) -> None:
        state = {
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        temporary = path.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]

    @torch.no_grad()
    def validate(self, sheet: Path) -> dict[str, float]:
        """PSNR on people never trained on; some of them beside their renders in `sheet`."""
        held_out = self.renders.split("validation")
        held_out = held_out[:: max(1, len(held_out) // VALIDATION)]
        chunks = np.array_split(held_out, len(held_out) // 64 + 1)
        pairs = [(self.average(z), x, p) for z, x, p in (load(self.renders, c) for c in chunks)]
        generated, rendered, landmarks = (torch.cat(part) for part in zip(*pairs, strict=True))
        masks = regions(landmarks, self.net.resolution)
        write_sheet(sheet, rendered[:32], generated[:32])
        return {
            "psnr": psnr(generated, rendered),
            "psnr_mouth": psnr(generated, rendered, masks.mouth),
            "psnr_eyes": psnr(generated, rendered, masks.eyes),
        }


def load(renders: Renders, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
    """z `[N,P]`, pictures `[N,3,S,S]`, landmarks `[N,68,2]`."""
    z = torch.from_numpy(np.array(renders.parameters(indices), np.float32))
    landmarks = torch.from_numpy(np.array(renders.landmarks(indices), np.float32))
    return z, to_tensor(renders.images(indices)), landmarks


def write_sheet(path: Path, rendered: Tensor, generated: Tensor, columns: int = 8) -> None:
    """Pairs, render left and generated right, twice as large."""
    pairs = to_pixels(torch.cat([rendered, generated], 3))
    columns = min(columns, len(pairs))
    rows, (height, width) = len(pairs) // columns, pairs.shape[1:3]
    grid = pairs[: rows * columns].reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    picture = Image.fromarray(grid.reshape(-1, columns * width, 3))
    picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.NEAREST).save(path)


def train(working: Path, data: Path, options: Options, checkpoint_every: int) -> None:
    """All of it, in `options.processes` processes."""
    rendezvous = working / "rendezvous"
    rendezvous.unlink(missing_ok=True)
    arguments = (working, data, options, checkpoint_every)
    if options.processes == 1:
        _process(0, *arguments)
    else:
        spawn(_process, arguments, options.processes)  # type: ignore[no-untyped-call]
    rendezvous.unlink(missing_ok=True)


def _process(rank: int, working: Path, data: Path, options: Options, every: int) -> None:
    torch.set_num_threads(1)
    if options.processes > 1:
        method = f"file://{(working / 'rendezvous').resolve()}"
        dist.init_process_group("gloo", method, world_size=options.processes, rank=rank)
    trainer = Trainer(Renders(data), options, rank)
    if (working / CHECKPOINT).is_file():
        trainer.load(working / CHECKPOINT)
    _loop(trainer, working, every)
    if options.processes > 1:
        dist.barrier()
        dist.destroy_process_group()


def _loop(trainer: Trainer, working: Path, every: int) -> None:
    options, leads = trainer.options, trainer.rank == 0
    shown = progress("generator", options.steps, trainer.step) if leads else nullcontext()
    before, started = trainer.seconds, time.monotonic()
    with shown as bar:
        while trainer.step < options.steps:
            loss = trainer.train_step()
            trainer.seconds = before + time.monotonic() - started
            if bar is None:
                continue
            bar.advance()
            if trainer.step % every == 0 or trainer.step == options.steps:
                figures = trainer.validate(working / SHEET)
                trainer.save(working / CHECKPOINT)
                bar.note(f"loss {loss:.3f} psnr {figures['psnr']:.1f}")
                line = {"step": trainer.step, "seconds": round(trainer.seconds), "loss": loss}
                with (working / "log.jsonl").open("a") as log:
                    log.write(json.dumps(line | figures) + "\n")
        if leads:
            _finish(trainer, working)


def _finish(trainer: Trainer, working: Path) -> None:
    """Write the averaged weights and their card."""
    net = trainer.average
    net.w_mean.copy_(_mean_w(net, trainer.options.seed))
    figures = trainer.validate(working / SHEET)
    card: dict[str, Any] = {
        "network": "StyleGAN2 generator; z are the renderer's parameters",
        "training": "distillation by L2, then L1, of colors and edges, weighted towards eyes and"
        " mouths; Muon; weights averaged",
        "data": f"{len(trainer.pictures)} renders, {asdict(trainer.renders.settings)}",
        "validation": "renders of other people; PSNR in dB, over all pixels, mouths, eyes",
        "figures": {name: round(value, 2) for name, value in figures.items()},
        "options": asdict(trainer.options),
        "minutes": round(trainer.seconds / 60, 1),
        "hardware": f"{trainer.options.processes} processes, each {hardware()}",
    }
    write_card(working, NAME, net, card)
    (working / CHECKPOINT).unlink(missing_ok=True)


@torch.no_grad()
def _mean_w(net: StyleGAN2, seed: int) -> Tensor:
    z = numpy_generator("mini/generator/w_mean", 0, seed).standard_normal((10_000, net.z_dim))
    return net.mapping(torch.from_numpy(z).float()).mean(0)


def train_generator(data: Path, out: Path, options: Options, checkpoint_every: int = 250) -> None:
    """Train on the renders in `data`; `out` gets weights, card, log and a sample sheet."""
    with resumable_directory(out, asdict(options) | {"data": str(data)}) as working:
        train(working, data, options, checkpoint_every)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data/mini/renders"))
    parser.add_argument("--out", type=Path, default=Path("data/mini/trained/generator"))
    parser.add_argument("--steps", type=int, default=Options.steps)
    parser.add_argument("--batch", type=int, default=Options.batch)
    parser.add_argument("--rate", type=float, default=Options.rate)
    parser.add_argument("--processes", type=int, default=Options.processes)
    parser.add_argument("--seed", type=int, default=Options.seed)
    parser.add_argument("--checkpoint-every", type=int, default=250)
    given = vars(parser.parse_args())
    data, out, every = given.pop("data"), given.pop("out"), given.pop("checkpoint_every")
    train_generator(data, out, Options(**given), every)


if __name__ == "__main__":
    main()
