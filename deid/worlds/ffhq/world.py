"""Loads the paper's world from public checkpoints, every file verified."""

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
from deid.weights.catalog import MTCNN, needs
from deid.weights.entry import Role
from deid.weights.importers import build, read_checkpoint
from deid.weights.store import Store, default_store, weight_path
from deid.worlds.ffhq import faces
from deid.worlds.ffhq.test_faces import drawn_faces, photographed_faces
from deid.worlds.world import FaceEmbedder, Generator, LandmarkNetwork, World


def load_ffhq_world(params: WorldParams, store: Store | None = None) -> World:
    """The world whose files the catalog and `params.files` name; networks frozen, in eval mode.

    Raises DeidError naming a file that is missing, changed or unreadable, a file that
    `params.commercial` forbids, or a role without a network.
    """
    store = store or default_store()
    files = Files(params, store)
    generator = cast(Generator, files.network("generator"))
    trunk = faces.expression_trunk(files.network("expression"))
    held_out = dict(files.recognizers("held_out"))
    perceptual, metric_features = _perceptual(files)
    return World(
        name="ffhq",
        resolution=generator.resolution,
        generator=generator,
        identity=files.recognizers("identity")[0][1],
        expression_trunk=trunk,
        expression_dim=trunk.dim,
        landmarks=_landmarks(files),
        detector=_detector(files),
        held_out=held_out,
        selecting=next(iter(held_out)),
        perceptual=perceptual,
        metric_features=metric_features,
        test_faces=photographed_faces(params.faces, generator.resolution)
        if params.faces
        else drawn_faces(generator, params.truncation),
        weights_sha256=files.sha256(),
        domain="photographs",
        truncation=params.truncation,
        photographed=params.faces is not None,
        memory=store.folder / "calibration",
    )


class Files:
    """The verified files of every role, and the networks in them."""

    def __init__(self, params: WorldParams, store: Store) -> None:
        wanted = needs(
            "ffhq", params.commercial, cast(Mapping[Role, tuple[str, ...]], params.files)
        )
        self.paths: dict[Role, dict[str, Path]] = {
            role: {name: weight_path(name, store) for name in names}
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

    def recognizers(self, role: Role) -> list[tuple[str, FaceEmbedder]]:
        """Face recognizers by catalog name."""
        return [
            (name, faces.embedder(network, built)) for name, network, built in self.networks(role)
        ]

    def sha256(self) -> str:
        """One hash over every file, in the order of roles and names."""
        paths = [path for files in self.paths.values() for path in files.values()]
        return hashlib.sha256("".join(map(file_sha256, paths)).encode()).hexdigest()


def _landmarks(files: Files) -> LandmarkNetwork:
    _, network, built = next(files.networks("landmarks"))
    return faces.landmarks(network, built)


def _detector(files: Files) -> FaceDetector:
    paths = files.paths["detector"]
    if paths.keys() != set(MTCNN):
        raise DeidError(f"world.files.detector: write {', '.join(MTCNN)}; no other detector is one")
    return OnePass(load_mtcnn(paths[MTCNN[0]].parent))


def _perceptual(files: Files) -> tuple[faces.Perceptual, faces.Perceptual]:
    """What trains and what measures: LPIPS on VGG-16 and on AlexNet; one network where one is given
    for both, and reports then say so."""
    built = [(network, module) for _, network, module in files.networks("perceptual")]
    fid = [module for network, module in built if network == "fid_inception"]
    lpips = {str(module.pnet_type): module for network, module in built if network == "lpips"}
    if not fid or not lpips:
        needed = "lpips" if fid else "fid_inception"
        raise DeidError(f"world.files.perceptual: no {needed} among them; add its file")
    networks = {name: faces.perceptual(fid[0], module) for name, module in lpips.items()}
    only = next(iter(networks.values()))
    return networks.get("vgg", only), networks.get("alex", only)
