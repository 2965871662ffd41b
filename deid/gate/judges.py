"""The gate: would a recognizer that had no part in making it still know this face?

Each face of an output is compared with its original by judges, recognizers that no method here
attacks or optimizes. One judge above its threshold, or one figure that is not finite, is a
failure. The same photograph is the hardest comparison there is: pose, light and hair are equal.
"""

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deid.errors import DeidError, NoFile
from deid.faces.alignment import Points
from deid.gate.calibration import FALSE_ACCEPT_RATE, Limits, calibrated, measured_limit, ship
from deid.pixels import Pixels, to_tensor
from deid.weights.onnx_session import open_session
from deid.weights.store import locate_network
from deid.worlds.world import FaceEmbedder, TestFaces, World

LEAST_TRUE_ACCEPT_RATE = 0.3
LEAST_DIM = 32  # of a recognizer's vectors; usual ones have 128 or 512
ALIKE = 0.95  # cosine of a black and a white picture; 0.34 for foamliu's MobileFaceNet
VIEWS, SEED = 2, 0  # of each test person
PEOPLE = (400, 60)  # of whom thresholds are measured; fewer where a person's folder has no more

Embed = Callable[[Pixels, Points], NDArray[np.float32]]
"""Aligned `uint8 [N,S,S,3]` faces and their five points `[N,5,2]` in them → unit `[N,dim]`."""

Embeddings = Mapping[str, NDArray[np.float32]]
"""For each judge by name, unit vectors `[N,dim]`."""


@dataclass(frozen=True)
class Judge:
    """A recognizer and the cosine above which it takes two faces for one person.

    `stranger` is the same for two different places of a picture, where a `threshold` that is
    stricter than a false accept rate of 1e-3 would see likenesses everywhere; None: `threshold`.
    """

    name: str
    threshold: float
    embed: Embed
    stranger: float | None = None

    def limit(self, elsewhere: bool) -> float:
        """The cosine that an output must stay below."""
        return self.stranger if elsewhere and self.stranger is not None else self.threshold


@dataclass(frozen=True)
class Verdict:
    """What the judges said of one face: a cosine for each, and whether all were below.

    `margin` is the greatest excess of a cosine over its limit; negative where safe.
    """

    similarities: Mapping[str, float]
    safe: bool
    margin: float


@dataclass(frozen=True)
class Verifier:
    """Judges that must all fail to recognize a face, shown as FFHQ-aligned squares of `side`."""

    judges: tuple[Judge, ...]
    side: int

    @property
    def description(self) -> dict[str, float]:
        """Names and thresholds, for the records."""
        return {judge.name: judge.threshold for judge in self.judges}

    def embed(self, faces: Pixels, points: Points) -> Embeddings:
        """`uint8 [N,side,side,3]` and their five points in them `[N,5,2]` → vectors.

        Raises `FloatingPointError` where a judge says nothing that can be compared.
        """
        if not self.judges:
            raise ValueError("no recognizers configured")
        vectors = {judge.name: judge.embed(faces, points) for judge in self.judges}
        for name, rows in vectors.items():
            if len(rows) != len(faces) or not np.isfinite(rows).all():
                raise FloatingPointError(f"{name} gave no vector that can be compared")
        return vectors

    def judge(self, original: Embeddings, output: Embeddings, elsewhere: bool = False) -> Verdict:
        """Compare one original `[1,dim]` with one output; `elsewhere`: not at its own place."""
        cosines = {
            judge.name: float(original[judge.name][0] @ output[judge.name][0])
            for judge in self.judges
        }
        excess = [cosines[judge.name] - judge.limit(elsewhere) for judge in self.judges]
        margin = max(excess, default=float("nan"))
        # One that is not finite is a failure, wherever it stands among the others.
        safe = bool(excess) and all(np.isfinite(value) and value < 0 for value in excess)
        return Verdict(cosines, safe, margin)

    def compare(self, original: Pixels, output: Pixels, points: Points) -> Verdict:
        """Judge one face: `uint8 [side,side,3]` before and after, five points `[5,2]`."""
        before, after = (self.embed(face[None], points[None]) for face in (original, output))
        return self.judge(before, after)


def world_verifier(world: World) -> Verifier:
    """Judges from the world's held-out recognizers, at a false accept rate of 1e-3.

    Thresholds come from pairs of different people among faces that no training has seen. A judge
    that does not know people again would let every face pass, so it is refused (`DeidError`).
    """
    faces = cache(lambda: _test_faces(world))
    limits = calibrated(
        _origin(world, faces),
        world.held_out,
        lambda: _measured_limits(world, faces()),
        world.calibration,
        world.memory,
        world.device.type,
    )
    judges = []
    for name, network in world.held_out.items():
        limit = limits[name]
        if not limit.true_accept_rate >= LEAST_TRUE_ACCEPT_RATE:
            raise DeidError(
                f"recognizer {world.name}/{name}: knows only {limit.true_accept_rate:.0%} of "
                "people again, too few to judge by; restore its weights or train them with "
                "`make pretrain`"
            )
        embed = _world_embed(network, world.device)
        judges.append(Judge(f"{world.name}/{name}", limit.threshold, embed))
    return Verifier(tuple(judges), world.resolution)


def ship_calibration(world: World) -> Limits:
    """Measure the world's judges and write `World.calibration`, for its next starts."""
    faces = cache(lambda: _test_faces(world))
    limits = _measured_limits(world, faces())
    if world.calibration is not None:
        ship(world.calibration, _origin(world, faces), limits)
    return limits


def _origin(world: World, faces: Callable[[], TestFaces]) -> list[Any]:
    """All that the thresholds follow from."""
    origin = [world.name, world.weights_sha256, PEOPLE, VIEWS, SEED, FALSE_ACCEPT_RATE]
    if world.memory is not None:  # mini has one resolution and one ψ
        origin += [world.truncation, world.resolution]
        if world.photographed:
            origin.append(hashlib.sha256(faces().pixels.tobytes()).hexdigest())
    return origin


def _test_faces(world: World) -> TestFaces:
    most, least = PEOPLE
    try:
        return world.test_faces(most, VIEWS, SEED)
    except DeidError:  # a folder of photographs with fewer people
        return world.test_faces(least, VIEWS, SEED)


def _measured_limits(world: World, faces: TestFaces) -> Limits:
    nowhere = np.zeros((len(faces.pixels), 5, 2), np.float32)
    return {
        name: measured_limit(
            _world_embed(network, world.device)(faces.pixels, nowhere), faces.identities
        )
        for name, network in world.held_out.items()
    }


def _world_embed(network: FaceEmbedder, device: torch.device) -> Embed:
    def embed(faces: Pixels, points: Points) -> NDArray[np.float32]:
        with torch.inference_mode():
            batches = [to_tensor(faces[i : i + 50]).to(device) for i in range(0, len(faces), 50)]
            parts = [network(batch) for batch in batches]
        return torch.cat(parts).float().cpu().numpy()

    return embed


@dataclass(frozen=True)
class _Convention:
    """How a family of recognizers wants its input: `(RGB - mean) / std`, on 0 to 255.

    The thresholds are stricter than a false accept rate of 1e-3, which is 0.53 for foamliu's
    MobileFaceNet on 200 synthetic portraits (1e-2: 0.39); `stranger` is at that rate. Those of
    arcface have not been measured: they follow what its users report.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    threshold: float
    stranger: float


_CONVENTIONS = {
    # Torchvision's ImageNet statistics.
    "foamliu": _Convention((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), 0.35, 0.53),
    "arcface": _Convention((127.5, 127.5, 127.5), (127.5, 127.5, 127.5), 0.30, 0.45),
}

# Where recognizers of the ArcFace family expect the five points in their 112-pixel input
# (InsightFace, `face_align`).
_TEMPLATE = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)


def build_verifier(specs: Sequence[str], world: World) -> Verifier:
    """Judges from `foamliu` or `arcface`, each with or without `=FILE` (112-pixel ONNX), else the
    world's own."""
    if not specs:
        return world_verifier(world)
    return Verifier(tuple(_file_judge(spec) for spec in specs), side=256)


def _file_judge(spec: str) -> Judge:
    kind, path = locate_network(spec)
    if kind not in _CONVENTIONS or path is None:
        raise DeidError(f"recognizer {spec!r}: unknown; write foamliu or arcface, or foamliu=FILE")
    if not path.is_file():
        raise NoFile(f"{path}: no such recognizer file; give the path of a .onnx file")
    convention = _CONVENTIONS[kind]
    try:
        embed = _onnx_embed(path, convention)
        _check_recognizer(embed)
    except Exception as error:
        reason = str(error).split("\n")[0][:160]
        raise NoFile(f"{path}: not a {kind} recognizer ({reason}); get it again") from None
    return Judge(f"{kind}:{path.stem}", convention.threshold, embed, convention.stranger)


def _check_recognizer(embed: Embed) -> None:
    """`ValueError` for a network that cannot be a recognizer: a detector, or one of landmarks."""
    faces = np.stack([np.full((112, 112, 3), level, np.uint8) for level in (0, 255)])
    vectors = embed(faces, np.stack([_TEMPLATE, _TEMPLATE]))
    if vectors.ndim != 2 or len(vectors) != 2 or vectors.shape[1] < LEAST_DIM:
        raise ValueError("it gives no vector for each face")
    if not float(vectors[0] @ vectors[1]) < ALIKE:
        raise ValueError("it gives black and white pictures the same vector")


def _onnx_embed(path: Path, convention: _Convention) -> Embed:
    session = open_session(path)
    if len(session.get_outputs()) != 1:
        raise ValueError(f"it has {len(session.get_outputs())} outputs, a recognizer has one")
    source = session.get_inputs()[0].name
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (convention.mean, convention.std))

    def embed(faces: Pixels, points: Points) -> NDArray[np.float32]:
        aligned = np.stack([_to_template(f, p) for f, p in zip(faces, points, strict=True)])
        planes = np.ascontiguousarray(aligned.transpose(0, 3, 1, 2))
        batch = (planes.astype(np.float32) - mean) / std
        # One at a time: many files fix the size of the batch, and on a CPU more gains nothing.
        vectors = np.concatenate([session.run(None, {source: row[None]})[0] for row in batch])
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

    return embed


def _to_template(face: Pixels, points: Points) -> Pixels:
    """`uint8 [112,112,3]`, the five points brought as near to the template as turning can."""
    import cv2

    source = np.asarray(points, np.float64) - 0.5  # OpenCV has pixel centers at integers
    affine = _similarity(source, _TEMPLATE)
    return np.asarray(cv2.warpAffine(face, affine, (112, 112), flags=cv2.INTER_AREA), np.uint8)


def _similarity(source: NDArray[Any], target: NDArray[Any]) -> NDArray[np.float64]:
    """The `[2,3]` similarity that brings points `[K,2]` nearest to others, as complex a·z + b."""
    z, u = source @ np.array([1, 1j]), target @ np.array([1, 1j])
    centered = z - z.mean()
    a = np.vdot(centered, u - u.mean()) / np.vdot(centered, centered)
    b = u.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


if __name__ == "__main__":  # python -m deid.gate.judges PARAMS: the file that comes with a world
    from deid.params import load_params
    from deid.worlds import load_world

    print(dict(ship_calibration(load_world(load_params(Path(sys.argv[1])).world))))
