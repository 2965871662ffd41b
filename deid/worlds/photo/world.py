"""Loads the photo world: a real StyleGAN and real face networks, all from package registries."""

from typing import cast

from deid.nets.efficientnet_lite import EfficientNetLite0
from deid.nets.face_api import FaceApiNet
from deid.params import WorldParams
from deid.weights.store import Store, default_store
from deid.worlds.ffhq.test_faces import drawn_faces, photographed_faces
from deid.worlds.photo.faces import EfficientNetPerceptual, FaceApiMetrics, MeshPoints
from deid.worlds.photo.generator import load_generator
from deid.worlds.public import faces
from deid.worlds.public.files import Files
from deid.worlds.world import World


def load_photo_world(params: WorldParams, store: Store | None = None) -> World:
    """The world whose files the catalog and `params.files` name; networks frozen, in eval mode.

    Raises DeidError naming a file that is missing, changed, unreadable, or that `params.commercial`
    forbids: the generator always, since it was distilled from weights not for commercial use.
    """
    store = store or default_store()
    files = Files("photo", params, store)
    generator, heads_sha256 = load_generator(dict(files.built("generator")), params.resolution)
    trunk = faces.expression_trunk(files.network("expression"), "efficientnet_lite0", 1280)
    held_out = dict(files.recognizers("held_out"))
    perceptual = EfficientNetPerceptual(cast(EfficientNetLite0, files.network("perceptual")))
    metrics = FaceApiMetrics(cast(FaceApiNet, files.network("attributes")))
    return World(
        name="photo",
        resolution=generator.resolution,
        generator=generator,
        identity=files.recognizers("identity")[0][1],
        expression_trunk=trunk,
        expression_dim=trunk.dim,
        landmarks=files.landmarks(),
        contours=faces.frozen(MeshPoints(files.network("contours"))),
        detector=files.detector(),
        held_out=held_out,
        selecting=next(iter(held_out)),
        perceptual=faces.frozen(perceptual),
        metric_features=faces.frozen(metrics),
        test_faces=photographed_faces(params.faces, generator.resolution)
        if params.faces
        else drawn_faces(generator, params.truncation),
        weights_sha256=files.sha256(heads_sha256),
        domain="photographs",
        truncation=params.truncation,
        photographed=params.faces is not None,
        memory=store.folder / "calibration",
    )
