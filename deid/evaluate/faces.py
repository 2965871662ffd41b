"""Held-out faces and everything the metrics need to know about them, computed once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import Tensor

from deid.evaluate.metrics import FloatArray, impostor_scores, threshold_at
from deid.faces.detection.boxes import iou
from deid.params import EvaluateParams
from deid.pixels import Pixels, to_pixels, to_tensor
from deid.storage.staging import write_atomically
from deid.worlds.world import World

Features = NDArray[np.float32]
FALSE_ACCEPT_RATE = 1e-3
MIN_OVERLAP = 0.3  # a detector's box has the forehead, the landmarks' box has not


@dataclass(frozen=True)
class Encoded:
    """What the measuring networks say of N pictures."""

    identity: Features  # En_id, the attacked recognizer
    held_out: Mapping[str, Features]
    pooled: Features  # for FID

    def rows(self, indices: NDArray[np.int64]) -> "Encoded":
        """What they say of the pictures `indices`."""
        held_out = {name: features[indices] for name, features in self.held_out.items()}
        return Encoded(self.identity[indices], held_out, self.pooled[indices])


@dataclass(frozen=True)
class HeldOut:
    """The originals of one repetition."""

    seed: int
    images: Tensor  # [N,3,R,R]
    identities: NDArray[np.int64]
    encoded: Encoded
    expression: Features  # for expression losses
    places: NDArray[np.float32]  # [N,4], the box of each face's landmarks
    impostors: Mapping[str, FloatArray]  # scores of different people, by held-out recognizer

    def __len__(self) -> int:
        return len(self.images)

    def threshold(self, recognizer: str) -> float:
        """The score at which a false accept rate of 1e-3 is reached between originals."""
        return threshold_at(FALSE_ACCEPT_RATE, self.impostors[recognizer])


def held_out_faces(world: World, params: EvaluateParams, seed: int) -> HeldOut:
    """Faces for repetition `seed`: other views (and people, where the world has them) for each."""
    faces = world.test_faces(params.identities, params.views, seed)
    images = to_tensor(faces.pixels)
    return _held_out(
        seed,
        faces.pixels,
        faces.identities,
        encode(world, images, params.batch_size),
        expressions(world, images, params.batch_size),
        _places(world, images, params.batch_size),
    )


def first_of_each(faces: HeldOut, count: int) -> NDArray[np.int64]:
    """Which `count` pictures to show, chosen before any result: the first one of each person, in
    the order of the people, then the second ones."""
    position, seen = np.arange(len(faces)), faces.identities[:, None] == faces.identities
    view = np.tril(seen, -1).sum(1)  # how many of the person come before it
    return np.lexsort((position, view))[:count]


def kept_faces(world: World, params: EvaluateParams, seed: int, folder: Path) -> HeldOut:
    """`held_out_faces`, which a file in `folder` keeps for other processes and later runs."""
    path = folder / f"faces-{seed}.safetensors"
    try:
        return _read(path, seed)
    except (FileNotFoundError, SafetensorError, KeyError):  # none, or what a crash damaged
        faces = held_out_faces(world, params, seed)
    content = {
        "pixels": to_pixels(faces.images),
        "identities": faces.identities,
        "expression": faces.expression,
        "places": faces.places,
        "identity": faces.encoded.identity,
        "pooled": faces.encoded.pooled,
        **{_JUDGE + name: codes for name, codes in faces.encoded.held_out.items()},
    }
    write_atomically(path, save({k: np.ascontiguousarray(v) for k, v in content.items()}))
    return faces


_JUDGE = "held_out/"


def _read(path: Path, seed: int) -> HeldOut:
    kept = load_file(path)
    judges = {name.removeprefix(_JUDGE): kept[name] for name in kept if name.startswith(_JUDGE)}
    encoded = Encoded(kept["identity"], judges, kept["pooled"])
    people, expression, places = (kept[k] for k in ("identities", "expression", "places"))
    return _held_out(seed, kept["pixels"], people, encoded, expression, places)


def _held_out(
    seed: int,
    pixels: Pixels,
    identities: NDArray[np.int64],
    encoded: Encoded,
    expression: Features,
    places: NDArray[np.float32],
) -> HeldOut:
    impostors = {
        name: impostor_scores(features, identities) for name, features in encoded.held_out.items()
    }
    return HeldOut(seed, to_tensor(pixels), identities, encoded, expression, places, impostors)


def over_batches(
    world: World, network: Callable[[Tensor], Tensor], images: Tensor, batch_size: int
) -> Tensor:
    """`network` of all `images [N,...]`, computed on the world's device, answered on the CPU."""
    parts = [network(batch.to(world.device)).cpu() for batch in torch.split(images, batch_size)]
    return torch.cat(parts)


@torch.no_grad()
def encode(world: World, images: Tensor, batch_size: int) -> Encoded:
    """What recognizers and metric features say of `images [N,3,R,R]`."""

    def run(network: Callable[[Tensor], Tensor]) -> Features:
        return over_batches(world, network, images, batch_size).numpy()

    return Encoded(
        identity=run(world.identity),
        held_out={name: run(network) for name, network in world.held_out.items()},
        pooled=run(world.metric_features.pooled),
    )


@torch.no_grad()
def expressions(world: World, images: Tensor, batch_size: int) -> Features:
    """Expression features in a network that had no part in training, `[N,K]`."""
    network = world.metric_features.expression
    features: Features = over_batches(world, network, images, batch_size).numpy()
    return features


@torch.no_grad()
def _places(world: World, images: Tensor, batch_size: int) -> NDArray[np.float32]:
    points = over_batches(world, world.landmarks, images, batch_size)
    return torch.cat([points.amin(dim=1), points.amax(dim=1)], dim=1).numpy()


def detected(world: World, images: Tensor, places: NDArray[np.float32]) -> NDArray[np.bool_]:
    """For each picture: does the detector see a face where the original's face is? `[N]`."""
    found = world.detector.detect(list(to_pixels(images)))
    return np.array(
        [
            len(faces) > 0 and bool((iou(place, faces.boxes) >= MIN_OVERLAP).any())
            for place, faces in zip(places, found, strict=True)
        ]
    )
