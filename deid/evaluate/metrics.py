"""The figures of merit, as functions of arrays; no network and no file in here."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
FloatArray = NDArray[np.float64]


def frechet_distance(a: Array, b: Array) -> float:
    """|μa − μb|² + tr(Σa + Σb − 2 (Σa Σb)^½) of two sets of features `[N,D]` (Heusel et al. 2017).

    In float64, with unbiased covariances. With Σ = RᵀR the trace of the root is the sum of the
    singular values of Ra Rbᵀ, so that no matrix root is taken and few pictures cost little.
    """
    root_a, root_b = _root(a), _root(b)
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    spread = np.square(root_a).sum() + np.square(root_b).sum() - 2.0 * cross
    means = a.mean(axis=0, dtype=np.float64) - b.mean(axis=0, dtype=np.float64)
    return float(max(np.square(means).sum() + spread, 0.0))


def _root(features: Array) -> FloatArray:
    """R `[min(N,D),D]` with RᵀR = Σ, the covariance of `features`."""
    centered = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    scaled = centered / np.sqrt(max(len(features) - 1, 1))
    return np.asarray(np.linalg.qr(scaled, mode="r"), np.float64)


def cosine(a: Array, b: Array) -> FloatArray:
    """Cosine of each pair of rows, `[N,D]` × `[N,D]` → `[N]`."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: FloatArray = (a * b).sum(axis=1) / np.maximum(lengths, 1e-12)
    return cosines


def mean_absolute(a: Array, b: Array) -> float:
    """Mean |a − b| over rows and dimensions: equation (5), a dimension's share of the L1 norm."""
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).mean())


def mean_distance(a: Array, b: Array) -> float:
    """Mean Euclidean distance of each pair of rows."""
    return float(np.linalg.norm(a.astype(np.float64) - b.astype(np.float64), axis=1).mean())


def impostor_scores(embeddings: Array, identities: NDArray[np.int64]) -> FloatArray:
    """Cosines of all pairs of unit embeddings that show different people, each pair once."""
    i, j = np.triu_indices(len(embeddings), k=1)
    different = identities[i] != identities[j]
    scores = embeddings.astype(np.float64) @ embeddings.astype(np.float64).T
    return np.asarray(scores[i[different], j[different]])


def threshold_at(far: float, impostors: FloatArray) -> float:
    """The lowest score that at most a share `far` of the impostors exceeds."""
    ordered = np.sort(impostors)[::-1]
    return float(ordered[min(int(far * len(ordered)), len(ordered) - 1)])


def match_rate(
    probes: Array, gallery: Array, identities: NDArray[np.int64], threshold: float
) -> float:
    """Share of (probe, gallery) pairs of one person whose cosine exceeds `threshold`.

    Row i of `probes` was made from row i of `gallery`; that pair counts only for people of whom
    the gallery holds no other picture. An attacker seldom has the very picture that was
    anonymized, but other pictures of the same person.
    """
    same = identities[:, None] == identities[None, :]
    own = np.eye(len(identities), dtype=bool)
    pairs = same & (~own | (same.sum(axis=1) == 1)[:, None])
    scores = probes.astype(np.float64) @ gallery.astype(np.float64).T
    return float((scores[pairs] > threshold).mean())
