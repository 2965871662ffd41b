"""What public files give a world: verified, read and built, role by role."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import cast

from torch import nn

from deid.errors import DeidError
from deid.faces.detection.mtcnn import load_mtcnn
from deid.faces.detection.single_pass import OnePass
from deid.faces.faces import FaceDetector
from deid.params import WorldParams
from deid.storage.staging import file_sha256
from deid.weights.catalog import MTCNN, needs, with_parts
from deid.weights.entry import Role
from deid.weights.importers import build, read_checkpoint
from deid.weights.store import Store, weight_path
from deid.worlds.public import faces
from deid.worlds.public.faces import Trunk
from deid.worlds.public.test_faces import drawn_faces, photographed_faces
from deid.worlds.world import (
    FaceEmbedder,
    Generator,
    LandmarkNetwork,
    MetricNetwork,
    PerceptualNetwork,
    World,
)

OF_STAGES: tuple[Role, ...] = ("generator", "identity", "expression", "contours")
"""What a trained stage runs through."""


class Files:
    """The verified files of every role, and the networks in them."""

    def __init__(self, world: str, params: WorldParams, store: Store) -> None:
        """Raises DeidError naming a file that is missing, changed or not allowed."""
        self.name, self.params, self.store = world, params, store
        wanted = needs(world, params.commercial, cast(Mapping[Role, tuple[str, ...]], params.files))
        self.paths: dict[Role, dict[str, Path]] = {
            role: {name: weight_path(name, store) for name in names}
            for role, names in wanted.items()
        }
        self.hashes: dict[Role, list[str]] = {
            role: [file_sha256(store.path(part)) for part in with_parts(names)]
            for role, names in wanted.items()
        }

    def network(self, role: Role) -> nn.Module:
        """The one network of a role."""
        return next(self.networks(role))[2]

    def networks(self, role: Role) -> Iterator[tuple[str, str, nn.Module]]:
        """Catalog name, network name and network for each file of a role."""
        for name, path in self.paths[role].items():
            imported = read_checkpoint(path)
            yield name, imported.network, build(imported)

    def built(self, role: Role) -> Iterator[tuple[str, nn.Module]]:
        """Network name and network for each file of a role."""
        for _, network, built in self.networks(role):
            yield network, built

    def recognizers(self, role: Role) -> list[tuple[str, FaceEmbedder]]:
        """Face recognizers by catalog name."""
        return [
            (name, faces.embedder(network, built)) for name, network, built in self.networks(role)
        ]

    def landmarks(self) -> LandmarkNetwork:
        """The network of the 68 points."""
        _, network, built = next(self.networks("landmarks"))
        return faces.landmarks(network, built)

    def detector(self) -> FaceDetector:
        """MTCNN, one pass over a picture."""
        paths = self.paths["detector"]
        if paths.keys() != set(MTCNN):
            raise DeidError(
                f"world.files.detector: write {', '.join(MTCNN)}; no other detector is one"
            )
        return OnePass(load_mtcnn(paths[MTCNN[0]].parent))

    def sha256(self, roles: Iterable[Role], *others: str) -> str:
        """One hash over the files of `roles`, in this order, then over `others`' hashes."""
        hashes = [sha256 for role in roles for sha256 in self.hashes[role]]
        return hashlib.sha256("".join([*hashes, *others]).encode()).hexdigest()

    def world(
        self,
        generator: Generator,
        trunk: Trunk,
        perceptual: PerceptualNetwork,
        metric_features: MetricNetwork,
        own_sha256: str = "",
    ) -> World:
        """The world of these networks and of those that each such world has alike.

        `own_sha256`: of weights that are ours and no public file.
        """
        params, held_out = self.params, dict(self.recognizers("held_out"))
        return World(
            name=self.name,
            resolution=generator.resolution,
            generator=generator,
            identity=self.recognizers("identity")[0][1],
            expression_trunk=trunk,
            expression_dim=trunk.dim,
            landmarks=self.landmarks(),
            detector=self.detector(),
            held_out=held_out,
            ensemble=dict(self.recognizers("ensemble")) if "ensemble" in self.paths else {},
            selecting=next(iter(held_out)),
            perceptual=perceptual,
            metric_features=metric_features,
            test_faces=photographed_faces(params.faces, generator.resolution)
            if params.faces
            else drawn_faces(generator, params.truncation),
            weights_sha256=self.sha256(self.hashes, own_sha256),
            stage_sha256=self.sha256(role for role in OF_STAGES if role in self.hashes),
            domain="photographs",
            truncation=params.truncation,
            photographed=params.faces is not None,
            memory=self.store.folder / "calibration",
        )
