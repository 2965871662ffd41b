"""Loads the photo world: a real StyleGAN and real face networks, all from package registries."""

from typing import cast

from deid.nets.efficientnet_lite import EfficientNetLite0
from deid.nets.face_api import FaceApiNet
from deid.params import WorldParams
from deid.weights.store import Store, default_store
from deid.worlds.photo.faces import EfficientNetPerceptual, FaceApiMetrics, MeshPoints
from deid.worlds.photo.generator import OURS, load_generator
from deid.worlds.public import faces
from deid.worlds.public.files import Files
from deid.worlds.world import World


def load_photo_world(params: WorldParams, store: Store | None = None) -> World:
    """The world whose files the catalog and `params.files` name; networks frozen, in eval mode.

    Raises DeidError naming a file that is missing, changed, unreadable, or that `params.commercial`
    forbids: the generator always, since it was distilled from weights not for commercial use.
    """
    files = Files("photo", params, store or default_store())
    generator, heads_sha256 = load_generator(dict(files.built("generator")), params.resolution)
    perceptual = EfficientNetPerceptual(cast(EfficientNetLite0, files.network("perceptual")))
    metrics = FaceApiMetrics(cast(FaceApiNet, files.network("attributes")))
    return files.world(
        generator,
        faces.expression_trunk(files.network("expression"), "efficientnet_lite0", 1280),
        faces.frozen(perceptual),
        faces.frozen(metrics),
        faces.frozen(MeshPoints(files.network("contours"))),
        heads_sha256,
        OURS / "calibration.json",
    )
