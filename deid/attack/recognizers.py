"""The recognizers that attack, and what detects faces: a world's own, and what was named."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from deid.attack.crops import Detectors
from deid.errors import DeidError
from deid.faces.detection import KINDS, Detector, SinglePassDetector, build_network
from deid.faces.detection.single_pass import HasSinglePass
from deid.faces.faces import FaceDetector, Faces
from deid.gate.judges import Embed, build_verifier
from deid.pixels import Pixels, to_tensor
from deid.worlds.world import FaceEmbedder, World

BATCH = 25
INDEPENDENT = "no part in training or selection"
ATTACKED = "trained with and attacked"
EN_ID = "En_id"
Embeddings = Mapping[str, NDArray[np.float64]]
"""By recognizer, unit vectors `[N,dim]`."""


@dataclass(frozen=True)
class NamedRecognizer:
    """A network, and what part it had in the training or selection of this project's methods.

    `network` is what `embed` asks, where that can be tuned; None: a file for a runtime of its own.
    """

    name: str
    part: str
    embed: Embed
    network: nn.Module | None = None


def recognizers(world: World, specs: Sequence[str]) -> list[NamedRecognizer]:
    """The world's judges, those of `specs` (as `deid run --recognizer`), En_id and the ensemble;
    `DeidError` for two of one name."""
    judges = build_verifier(specs, world).judges if specs else ()
    networks = [
        *(
            _own(world, name, _part(world, name), network)
            for name, network in world.held_out.items()
        ),
        *(NamedRecognizer(judge.name, INDEPENDENT, judge.embed) for judge in judges),
        _own(world, EN_ID, ATTACKED, world.identity),
        *(_own(world, name, ATTACKED, network) for name, network in world.ensemble.items()),
    ]
    names = [network.name for network in networks]
    if twice := {name for name in names if names.count(name) > 1}:
        raise DeidError(f"two recognizers are called {min(twice)}; rename one's file")
    return networks


def _own(world: World, name: str, part: str, network: FaceEmbedder) -> NamedRecognizer:
    tunable = network if isinstance(network, nn.Module) else None
    return NamedRecognizer(name, part, _embed(network, world.device), tunable)


def embed_all(
    networks: Sequence[NamedRecognizer], faces: Pixels, points: NDArray[np.float64]
) -> Embeddings:
    """What every recognizer says of `uint8 [N,S,S,3]`, five points `[N,5,2]` in each."""
    embeddings = {}
    for network in networks:
        rows = [
            network.embed(faces[i : i + BATCH], points[i : i + BATCH])
            for i in range(0, len(faces), BATCH)
        ]
        vectors = np.concatenate(rows).astype(np.float64)
        if not np.isfinite(vectors).all():
            raise DeidError(f"recognizer {network.name}: gives no finite vector for some faces")
        embeddings[network.name] = vectors
    return embeddings


def build_detectors(world: World, specs: Sequence[str], size: int) -> Detectors:
    """The world's detector, those of `specs`, and all public ones that were fetched for
    photographs; each makes one pass over a picture, whose longer side is at most `size`."""
    own = world.detector
    main = _OnePass(own.single_pass(), size) if isinstance(own, HasSinglePass) else own
    named: dict[str, FaceDetector] = {world.name: main}
    for spec in specs:
        named[spec.partition("=")[0]] = _OnePass(build_network(spec, world), size)
    for kind in KINDS if world.domain == "photographs" else ():
        if kind not in named and not main.name.startswith(kind):
            try:
                named[kind] = _OnePass(build_network(kind, world), size)
            except (DeidError, ModuleNotFoundError):
                continue  # not fetched or not installed, and not asked for
    return Detectors(main, named)


class _OnePass:
    """One pass, never over an enlarged picture: `FaceDetector`."""

    def __init__(self, network: SinglePassDetector, size: int) -> None:
        self.name, self._network, self._size = network.name, network, size

    def detect(self, pictures: Sequence[Pixels]) -> list[Faces]:
        """See `FaceDetector`."""
        sizes = [min(self._size, max(one.shape[:2])) for one in pictures]
        return [
            Detector([self._network], size).detect([one])[0]
            for one, size in zip(pictures, sizes, strict=True)
        ]


def _part(world: World, name: str) -> str:
    return INDEPENDENT if name in world.reporting else "selects models"


def _embed(network: FaceEmbedder, device: torch.device) -> Embed:
    def embed(faces: Pixels, points: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return network(to_tensor(faces).to(device)).float().cpu().numpy()

    return embed
