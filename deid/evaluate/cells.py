"""One method on one repetition's faces: what it made, and what the tables say of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deid.anonymize import Anonymizer, ModelPaths, build
from deid.anonymize.swap import Swap
from deid.evaluate.faces import (
    Encoded,
    HeldOut,
    detected,
    encode,
    expressions,
    over_batches,
)
from deid.evaluate.metrics import (
    FloatArray,
    cosine,
    frechet_distance,
    match_rate,
    mean_absolute,
    mean_distance,
)
from deid.model import Deidentifier
from deid.params import AnonymizeParams
from deid.pixels import quantize
from deid.seeds import numpy_generator, seed_of, torch_generator
from deid.worlds.world import World

TABLES: Mapping[str, tuple[str, ...]] = {
    "table1": (
        *("original", "fgsm-0.03", "fgsm-0.1", "pgd", "adversarial"),
        *("blur", "pixelate", "mask"),
    ),
    "table2": ("swap", "swap-sampled", "unchanged"),
    "table3": ("reconstruction", "unrelated"),
}
"""The methods of each table; REFERENCES are the ends of its scales, not competitors."""
REFERENCES = ("original", "unchanged", "unrelated")


@dataclass(frozen=True)
class Output:
    """Pictures as a file would hold them (8 bits a channel), and whose identity they were given."""

    images: Tensor  # [N,3,R,R]
    donors: Encoded | None = None  # table 2 only


@dataclass(frozen=True)
class Cell:
    """The figures of one method and repetition."""

    figures: dict[str, float]
    similarities: list[float]  # a face each, mean over the held-out recognizers


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


def produce(bench: Bench, method: str, faces: HeldOut) -> Output:
    """What `method` makes of all `faces`."""
    if method in ("original", "unchanged"):
        return Output(faces.images, _take(faces.encoded, pairing(faces)))
    if method == "unrelated":
        return Output(quantize(_samples(bench, faces)))
    if method == "swap":
        return _swap(bench, faces)
    if method == "swap-sampled":
        return _swap_sampled(bench, faces)
    anonymizer = bench.anonymizer(method)
    return Output(_batches(bench, faces, lambda f, s, _: anonymizer(f, s)))


def measure(bench: Bench, table: str, faces: HeldOut, output: Output) -> Cell:
    """The row of `table` that `output` earns."""
    world, originals = bench.world, faces.encoded
    same = output.images is faces.images  # the references cost nothing
    made = originals if same else encode(world, output.images, bench.batch_size)
    figures = {"fid": frechet_distance(originals.pooled, made.pooled)}
    figures |= _privacy(world, faces, output.images, made)
    if table == "table2" and output.donors is not None:
        figures["source_id_loss"] = mean_absolute(output.donors.identity, made.identity)
        figures["source_id_similarity"] = _similarity(output.donors, made).mean().item()
        figures["target_expression_loss"] = _expression(bench, faces, output.images)
    if table == "table3":
        figures["lpips"] = _perceptual(bench, faces.images, output.images)
        figures["id_loss"] = mean_absolute(originals.identity, made.identity)
        figures["expression_loss"] = _expression(bench, faces, output.images)
    return Cell(figures, _similarity(originals, made).tolist())


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


def _privacy(world: World, faces: HeldOut, images: Tensor, made: Encoded) -> dict[str, float]:
    """Detection, similarity with the original, and re-identification.

    Every output is embedded and matched, whether or not the detector finds a face in it: an
    attacker knows where the face was. So a method cannot hide behind undetected outputs, and
    detection stands apart. The worst recognizer's rate is the headline.
    """
    figures = {"detect_rate": float(detected(world, images, faces.places).mean())}
    rates = []
    for name, original in faces.encoded.held_out.items():
        output = made.held_out[name]
        figures[f"id_similarity_{name}"] = float(cosine(original, output).mean())
        rate = match_rate(output, original, faces.identities, faces.threshold(name))
        figures[f"reidentification_{name}"] = rate
        rates.append(rate)
    figures["id_similarity"] = float(_similarity(faces.encoded, made).mean())
    white_box = cosine(faces.encoded.identity, made.identity)
    figures["id_similarity_attacked"] = float(white_box.mean())
    figures["reidentification"] = max(rates)
    return figures


def _similarity(a: Encoded, b: Encoded) -> FloatArray:
    """Cosine of each pair, mean over the held-out recognizers, `[N]`."""
    similarity: FloatArray = np.mean([cosine(a.held_out[n], b.held_out[n]) for n in a.held_out], 0)
    return similarity


def _expression(bench: Bench, faces: HeldOut, images: Tensor) -> float:
    return mean_distance(faces.expression, expressions(bench.world, images, bench.batch_size))


@torch.no_grad()
def _perceptual(bench: Bench, a: Tensor, b: Tensor) -> float:
    world = bench.world

    def distance(pairs: Tensor) -> Tensor:
        return world.perceptual.distance(pairs[:, 0], pairs[:, 1])

    return float(over_batches(world, distance, torch.stack([a, b], 1), bench.batch_size).mean())


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


def _swap(bench: Bench, faces: HeldOut) -> Output:
    """The paper's protocol: the donor is another held-out person."""
    donors, model = torch.from_numpy(pairing(faces)), bench.model()

    @torch.no_grad()
    def make(batch: Tensor, _: list[int], indices: Tensor) -> Tensor:
        return model.swap(faces.images[donors[indices]].to(batch), batch)

    return Output(_batches(bench, faces, make), _take(faces.encoded, donors.numpy()))


def _swap_sampled(bench: Bench, faces: HeldOut) -> Output:
    """The anonymizer as it is shipped: the donor is drawn from the generator."""
    s, model = bench.settings, bench.model()
    swap, donors = Swap(bench.world, model, s.swap_max_similarity, s.swap_tries), []

    @torch.no_grad()
    def make(batch: Tensor, seeds: list[int], _: Tensor) -> Tensor:
        donors.append(swap.donors(batch, seeds))
        return model.swap(donors[-1], batch)

    images = _batches(bench, faces, make)
    return Output(images, encode(bench.world, torch.cat(donors).cpu(), bench.batch_size))


@torch.no_grad()
def _samples(bench: Bench, faces: HeldOut) -> Tensor:
    generator = bench.world.generator
    random = torch_generator("unrelated", 0, faces.seed)
    z = torch.randn(len(faces), generator.z_dim, generator=random)

    def drawn(z: Tensor) -> Tensor:
        return generator.synthesis(bench.world.truncated_mapping(z))

    return over_batches(bench.world, drawn, z, bench.batch_size)


def _take(encoded: Encoded, indices: NDArray[np.int64]) -> Encoded:
    return Encoded(
        identity=encoded.identity[indices],
        held_out={name: features[indices] for name, features in encoded.held_out.items()},
        pooled=encoded.pooled[indices],
    )
