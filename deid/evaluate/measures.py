"""The figures of the tables: one small function each, and which table shows which.

FID, LPIPS and expression are measured in `World.metric_features`, which had no part in training.
`id_similarity` and `reidentification` are those of `World.reporting`, recognizers that had no part
in training, attack or selection; gates read the figures called `..._selecting`. Identity losses and
`id_similarity_attacked` are those of En_id, which every method is trained with or attacks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deid.evaluate.faces import Encoded, HeldOut, detected, expressions, over_batches
from deid.evaluate.metrics import (
    FloatArray,
    cosine,
    frechet_distance,
    match_rate,
    mean_absolute,
    mean_distance,
)
from deid.worlds.world import MetricNetwork, World

Figures = dict[str, float]


@dataclass(frozen=True)
class Measured:
    """What a figure is computed from: originals, and what a method made of them."""

    world: World
    batch_size: int
    faces: HeldOut
    images: Tensor  # [N,3,R,R]
    made: Encoded
    donors: Encoded | None  # whose identity the outputs were given; table 2 only


@torch.no_grad()
def fid(m: Measured) -> Figures:
    """Fréchet distance between the features of originals and outputs."""
    figures = {"fid": frechet_distance(m.faces.encoded.pooled, m.made.pooled)}
    if (standard := m.world.standard) is not None:
        pictures = m.faces.images, m.images
        pooled = (over_batches(m.world, standard.pooled, x, m.batch_size) for x in pictures)
        figures["fid_standard"] = frechet_distance(*(features.numpy() for features in pooled))
    return figures


def detection(m: Measured) -> Figures:
    """Share of the outputs in which the detector finds a face where it was."""
    return {"detect_rate": float(detected(m.world, m.images, m.faces.places).mean())}


def identity_similarity(m: Measured) -> Figures:
    """Cosine between original and output in each recognizer, and the mean of those reporting."""
    original, made = m.faces.encoded, m.made
    each = {n: float(cosine(original.held_out[n], made.held_out[n]).mean()) for n in made.held_out}
    return {
        "id_similarity": float(np.mean([each[name] for name in reporting(m.world)])),
        "id_similarity_selecting": each[m.world.selecting],
        "id_similarity_attacked": float(cosine(original.identity, made.identity).mean()),
        **{f"id_similarity_{name}": value for name, value in each.items()},
    }


def reidentification(m: Measured) -> Figures:
    """Share of outputs matched with another picture of the person; the worst of those reporting.

    Every output is matched, whether or not the detector finds a face in it: an attacker knows where
    the face was. So a method cannot hide behind undetected outputs, and detection stands apart.
    """
    people = m.faces.identities
    each = {
        name: match_rate(m.made.held_out[name], original, people, m.faces.threshold(name))
        for name, original in m.faces.encoded.held_out.items()
    }
    return {
        "reidentification": max(each[name] for name in reporting(m.world)),
        "reidentification_selecting": each[m.world.selecting],
        **{f"reidentification_{name}": rate for name, rate in each.items()},
    }


def source_identity(m: Measured) -> Figures:
    """How like the donor the output is: equation (5), and the cosine of those reporting, if they
    have seen the donor."""
    assert m.donors is not None, "a method of table 2 has donors"
    figures = {"source_id_loss": mean_absolute(m.donors.identity, m.made.identity)}
    if m.donors.held_out:
        figures["source_id_similarity"] = float(similarity(m.world, m.donors, m.made).mean())
    return figures


def identity_loss(m: Measured) -> Figures:
    """Equation (5) between original and output."""
    return {"id_loss": mean_absolute(m.faces.encoded.identity, m.made.identity)}


def expression_loss(m: Measured) -> Figures:
    """Distance of the expression features of original and output."""
    features = expressions(m.world, m.images, m.batch_size)
    return {"expression_loss": mean_distance(m.faces.expression, features)}


def target_expression_loss(m: Measured) -> Figures:
    """The same under table 2's name: the original is the target there."""
    return {"target_expression_loss": expression_loss(m)["expression_loss"]}


@torch.no_grad()
def lpips(m: Measured) -> Figures:
    """Perceptual distance of original and output."""
    pairs = torch.stack([m.faces.images, m.images], 1)

    def of(network: MetricNetwork) -> float:
        distances = over_batches(
            m.world, lambda pair: network.distance(pair[:, 0], pair[:, 1]), pairs, m.batch_size
        )
        return float(distances.mean())

    standard = {"lpips_standard": of(m.world.standard)} if m.world.standard is not None else {}
    return {"lpips": of(m.world.metric_features), **standard}


_PRIVACY = (fid, detection, identity_similarity, reidentification)
TABLE_FIGURES: Mapping[str, Sequence[Callable[[Measured], Figures]]] = {
    "table1": _PRIVACY,
    "table2": (*_PRIVACY, source_identity, target_expression_loss),
    "table3": (*_PRIVACY, lpips, identity_loss, expression_loss),
}


def reporting(world: World) -> tuple[str, ...]:
    """The recognizers of the headline; the selecting one where the world has no other."""
    return world.reporting or (world.selecting,)


def similarity(world: World, a: Encoded, b: Encoded) -> FloatArray:
    """Cosine of each pair, mean over the reporting recognizers, `[N]`."""
    cosines = [cosine(a.held_out[name], b.held_out[name]) for name in reporting(world)]
    mean: FloatArray = np.mean(cosines, axis=0)
    return mean
