"""Loads the paper's world from public checkpoints, every file verified."""

from typing import cast

from deid.errors import DeidError
from deid.params import WorldParams
from deid.weights.store import Store, default_store
from deid.worlds.ffhq.test_faces import drawn_faces, photographed_faces
from deid.worlds.public import faces
from deid.worlds.public.files import Files
from deid.worlds.world import Generator, World


def load_ffhq_world(params: WorldParams, store: Store | None = None) -> World:
    """The world whose files the catalog and `params.files` name; networks frozen, in eval mode.

    Raises DeidError naming a file that is missing, changed or unreadable, a file that
    `params.commercial` forbids, or a role without a network.
    """
    store = store or default_store()
    files = Files("ffhq", params, store)
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
        landmarks=files.landmarks(),
        detector=files.detector(),
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
