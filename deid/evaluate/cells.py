"""One method on one repetition's faces: what it made, and what the tables say of it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deid.anonymize import (
    REBUILDING_RIVALS,
    RIVALS,
    SWAPPING_RIVALS,
    Anonymizer,
    ModelPaths,
    build,
    build_swap,
    kind_of,
)
from deid.anonymize.rivals.learned import Rebuilding, Swapping
from deid.evaluate.faces import Encoded, HeldOut, encode, over_batches
from deid.evaluate.measures import TABLE_FIGURES, Measured, similarity
from deid.model import Deidentifier
from deid.params import AnonymizeParams
from deid.pixels import quantize
from deid.seeds import numpy_generator, seed_of, torch_generator
from deid.worlds.world import World

TABLES: Mapping[str, tuple[str, ...]] = {
    "table1": (
        *("original", "reconstruction", "fgsm-0.03", "fgsm-0.1", "pgd", "pgd-0.1", "mifgsm-0.1"),
        *("tidim-0.1", "adversarial", "blur", "pixelate", "mask"),
    ),
    "table2": ("swap", "swap-sampled", "unchanged"),
    "table3": ("reconstruction", "unrelated"),
}
"""The methods of each table; REFERENCES are the ends of its scales, not competitors."""
REBUILDING = ("reconstruction", "inversion", "inversion-w")
"""Methods that give the face back, and belong to Table 3 alone."""

REFERENCES = ("original", "unchanged", "unrelated")
ABLATIONS = {"table1": ("reconstruction",)}
"""Rows that show where a method starts from; they compete in no column of that table."""


def tables(further: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
    """The methods of each table, with the `further` ones (`evaluate.methods`) in Table 1, or in
    Table 3 where all they do is give a face back; rivals that swap, or can give a face back, are in
    Table 2 or 3 as well. `DeidError` for one that nobody knows."""
    rows = {table: list(methods) for table, methods in TABLES.items()}
    for method in further:
        kind = kind_of(method)
        belongs = {
            "table1": kind not in REBUILDING,
            "table2": kind in SWAPPING_RIVALS,
            "table3": kind in (*REBUILDING, *REBUILDING_RIVALS),
        }
        for table, row in rows.items():
            if belongs[table] and method not in row:
                row.append(method)
    return {table: tuple(methods) for table, methods in rows.items()}


@dataclass(frozen=True)
class Output:
    """Pictures as a file would hold them (8 bits a channel), and whose identity they were given."""

    images: Tensor  # [N,3,R,R]
    donors: Encoded | None = None  # table 2 only


@dataclass(frozen=True)
class Cell:
    """The figures of one method and repetition."""

    figures: dict[str, float]
    similarities: list[float]  # a face each, mean over the reporting recognizers


@dataclass(frozen=True)
class Bench:
    """World, trained model and settings, as every cell needs them."""

    world: World
    models: ModelPaths
    settings: AnonymizeParams
    batch_size: int

    def anonymizer(self, method: str) -> Anonymizer:
        """The product's own anonymizer of that name."""
        return build(method, self.world, self.models, self.settings)

    def model(self) -> Deidentifier:
        """Both trained stages."""
        return Deidentifier.load(self.models.stage_one, self.models.stage_two, self.world)


def made_for(method: str, table: str) -> str:
    """The table for whose sake `method` makes its pictures as it does; "" if that is all one."""
    swaps = table == "table2" and method in SWAPPING_RIVALS
    rebuilds = table == "table3" and method in REBUILDING_RIVALS
    return table if swaps or rebuilds else ""


def produce(bench: Bench, method: str, faces: HeldOut, table: str = "table1") -> Output:
    """What `method` makes of all `faces` for `table`: rivals are given donors for the second, and
    asked to give the face back for the third."""
    if method in PRODUCERS:
        return PRODUCERS[method](bench, faces)
    if made_for(method, table):
        how = _swapped_by_rival if table == "table2" else _rebuilt_by_rival
        return how(bench, method, faces)
    anonymizer = bench.anonymizer(method)
    return Output(_batches(bench, faces, lambda f, s, _: anonymizer(f, s)))


def measure(bench: Bench, table: str, faces: HeldOut, output: Output) -> Cell:
    """The row of `table` that `output` earns."""
    same = output.images is faces.images  # the references cost nothing
    made = faces.encoded if same else encode(bench.world, output.images, bench.batch_size)
    measured = Measured(bench.world, bench.batch_size, faces, output.images, made, output.donors)
    figures: dict[str, float] = {}
    for figure in TABLE_FIGURES[table]:
        figures |= figure(measured)
    return Cell(figures, similarity(bench.world, faces.encoded, made).tolist())


def pairing(faces: HeldOut) -> NDArray[np.int64]:
    """For each face the index of its donor, who is never the same person; each donates once."""
    order = np.argsort(faces.identities, kind="stable")
    most = int(np.unique(faces.identities, return_counts=True)[1].max())
    shift = int(numpy_generator("pairing", 0, faces.seed).integers(most, len(faces) - most + 1))
    donors = np.empty(len(faces), dtype=np.int64)
    donors[order] = np.roll(order, shift)
    return donors


def face_seeds(faces: HeldOut) -> list[int]:
    """The seed of each face: random starts and donors differ between repetitions."""
    return [seed_of("evaluate", index, faces.seed) for index in range(len(faces))]


def _batches(
    bench: Bench,
    faces: HeldOut,
    make: Callable[[Tensor, list[int], Tensor], Tensor],
) -> Tensor:
    seeds, made = face_seeds(faces), []
    for indices in torch.split(torch.arange(len(faces)), bench.batch_size):
        batch = faces.images[indices].to(bench.world.device)
        made.append(make(batch, [seeds[i] for i in indices.tolist()], indices).cpu())
    return quantize(torch.cat(made))


def _unchanged(bench: Bench, faces: HeldOut) -> Output:
    """The originals, beside the donors that a swap would have had."""
    return Output(faces.images, faces.encoded.rows(pairing(faces)))


def _swap(bench: Bench, faces: HeldOut) -> Output:
    return _swapped(bench, faces, bench.model().swap)


def _swapped_by_rival(bench: Bench, method: str, faces: HeldOut) -> Output:
    rival = RIVALS[method](bench.world)
    assert isinstance(rival, Swapping), method
    return _swapped(bench, faces, rival.swap)


def _swapped(bench: Bench, faces: HeldOut, swap: Callable[[Tensor, Tensor], Tensor]) -> Output:
    """The paper's protocol: the donor is another held-out person."""
    donors = torch.from_numpy(pairing(faces))

    @torch.no_grad()
    def make(batch: Tensor, _: list[int], indices: Tensor) -> Tensor:
        return swap(faces.images[donors[indices]].to(batch), batch)

    return Output(_batches(bench, faces, make), faces.encoded.rows(donors.numpy()))


@torch.no_grad()
def _rebuilt_by_rival(bench: Bench, method: str, faces: HeldOut) -> Output:
    rival = RIVALS[method](bench.world)
    assert isinstance(rival, Rebuilding), method
    return Output(_batches(bench, faces, lambda batch, *_: rival.reconstruct(batch)))


def _swap_sampled(bench: Bench, faces: HeldOut) -> Output:
    """The anonymizer as it is shipped: the donor is one of the bank's, or the generator's."""
    swap = build_swap(bench.world, bench.models, bench.settings)
    donors: list[Tensor] = []  # of a bank's, there are codes only

    @torch.no_grad()
    def make(batch: Tensor, seeds: list[int], _: Tensor) -> Tensor:
        if swap.bank is not None:
            donors.append(swap.codes(batch, seeds))
            return swap.given(swap.toward(donors[-1], batch), batch)
        donors.append(swap.donors(batch, seeds))
        return swap.given(swap.toward(bench.world.identity(donors[-1]), batch), batch)

    images, given = _batches(bench, faces, make), torch.cat(donors).cpu()
    if swap.bank is None:
        return Output(images, encode(bench.world, given, bench.batch_size))
    nothing = np.empty((len(given), 0), np.float32)
    return Output(images, Encoded(given.numpy(), {}, nothing))


@torch.no_grad()
def _unrelated(bench: Bench, faces: HeldOut) -> Output:
    """Pictures of people who have nothing to do with the originals."""
    world = bench.world
    random = torch_generator("unrelated", 0, faces.seed)
    z = torch.randn(len(faces), world.generator.z_dim, generator=random)

    def drawn(z: Tensor) -> Tensor:
        return world.generator.synthesis(world.truncated_mapping(z))

    return Output(quantize(over_batches(world, drawn, z, bench.batch_size)))


PRODUCERS: Mapping[str, Callable[[Bench, HeldOut], Output]] = {
    "original": _unchanged,
    "unchanged": _unchanged,
    "unrelated": _unrelated,
    "swap": _swap,
    "swap-sampled": _swap_sampled,
}
"""What is no anonymizer of `deid.anonymize`, or is measured otherwise than it is used."""
