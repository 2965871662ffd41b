"""Held-out faces and everything the metrics need to know about them, computed once."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deid.evaluate.metrics import FloatArray, impostor_scores, overlap, threshold_at
from deid.images import to_pixels, to_tensor
from deid.params import EvaluateParams
from deid.worlds.world import World

Features = NDArray[np.float32]
FALSE_ACCEPT_RATE = 1e-3
MIN_OVERLAP = 0.3  # a detector's box has the forehead, the landmarks' box has not


@dataclass(frozen=True)
class Encoded:
    """What the world's networks say of N pictures."""

    identity: Features  # En_id, the attacked recogniser
    held_out: Mapping[str, Features]
    expression: Features  # the frozen trunk of En_expr
    pooled: Features  # for FID


@dataclass(frozen=True)
class HeldOut:
    """The originals of one repetition."""

    seed: int
    images: Tensor  # [N,3,R,R]
    identities: NDArray[np.int64]
    encoded: Encoded
    places: NDArray[np.float32]  # [N,4], the box of each face's landmarks
    impostors: Mapping[str, FloatArray]  # scores of different people, by held-out recogniser

    def __len__(self) -> int:
        return len(self.images)

    def threshold(self, recogniser: str) -> float:
        """The score at which a false accept rate of 1e-3 is reached between originals."""
        return threshold_at(FALSE_ACCEPT_RATE, self.impostors[recogniser])


def held_out_faces(world: World, params: EvaluateParams, seed: int) -> HeldOut:
    """Faces for repetition `seed`: other views (and people, where the world has them) for each."""
    faces = world.test_faces(params.identities, params.views, seed)
    images = to_tensor(faces.pixels)
    encoded = encode(world, images, params.batch_size)
    return HeldOut(
        seed=seed,
        images=images,
        identities=faces.identities,
        encoded=encoded,
        places=_places(world, images, params.batch_size),
        impostors={
            name: impostor_scores(features, faces.identities)
            for name, features in encoded.held_out.items()
        },
    )


@torch.no_grad()
def encode(world: World, images: Tensor, batch_size: int) -> Encoded:
    """Run every encoder over `images [N,3,R,R]`."""
    parts = [_encode(world, batch) for batch in torch.split(images, batch_size)]
    return join(parts)


def join(parts: list[Encoded]) -> Encoded:
    """Batches in a row → one."""
    return Encoded(
        identity=np.concatenate([p.identity for p in parts]),
        held_out={
            name: np.concatenate([p.held_out[name] for p in parts]) for name in parts[0].held_out
        },
        expression=np.concatenate([p.expression for p in parts]),
        pooled=np.concatenate([p.pooled for p in parts]),
    )


def _encode(world: World, images: Tensor) -> Encoded:
    return Encoded(
        identity=world.identity(images).numpy(),
        held_out={name: network(images).numpy() for name, network in world.held_out.items()},
        expression=world.expression_trunk(images).flatten(1).numpy(),
        pooled=world.perceptual.pooled(images).numpy(),
    )


@torch.no_grad()
def _places(world: World, images: Tensor, batch_size: int) -> NDArray[np.float32]:
    points = torch.cat([world.landmarks(batch) for batch in torch.split(images, batch_size)])
    return torch.cat([points.amin(dim=1), points.amax(dim=1)], dim=1).numpy()


def detected(world: World, images: Tensor, places: NDArray[np.float32]) -> NDArray[np.bool_]:
    """For each picture: does the detector see a face where the original's face is? `[N]`."""
    found = world.detector.detect(list(to_pixels(images)))
    return np.array(
        [
            len(faces) > 0 and bool((overlap(place, faces.boxes) >= MIN_OVERLAP).any())
            for place, faces in zip(places, found, strict=True)
        ]
    )
