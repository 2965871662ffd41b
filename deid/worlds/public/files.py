"""What public files give a world: verified, read and built, role by role."""

import hashlib
from collections.abc import Iterator, Mapping
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
from deid.worlds.world import FaceEmbedder, LandmarkNetwork


class Files:
    """The verified files of every role, and the networks in them."""

    def __init__(self, world: str, params: WorldParams, store: Store) -> None:
        """Raises DeidError naming a file that is missing, changed or not allowed."""
        wanted = needs(world, params.commercial, cast(Mapping[Role, tuple[str, ...]], params.files))
        self.paths: dict[Role, dict[str, Path]] = {
            role: {name: weight_path(name, store) for name in names}
            for role, names in wanted.items()
        }
        self.hashes = [
            file_sha256(store.path(part)) for names in wanted.values() for part in with_parts(names)
        ]

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

    def sha256(self, *others: str) -> str:
        """One hash over every file, in the order of roles and names, then over `others`' hashes."""
        return hashlib.sha256("".join([*self.hashes, *others]).encode()).hexdigest()
