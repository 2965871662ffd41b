"""Loads the paper's world from public checkpoints, every file verified."""

from deid.errors import DeidError
from deid.nets.style import StyleGenerator
from deid.params import WorldParams
from deid.weights.store import Store, default_store
from deid.worlds.public import faces
from deid.worlds.public.files import Files
from deid.worlds.world import World


def load_ffhq_world(params: WorldParams, store: Store | None = None) -> World:
    """The world whose files the catalog and `params.files` name; networks frozen, in eval mode.

    Raises DeidError naming a file that is missing, changed or unreadable, a file that
    `params.commercial` forbids, or a role without a network.
    """
    files = Files("ffhq", params, store or default_store())
    generator = files.network("generator")
    if not isinstance(generator, StyleGenerator):
        raise DeidError(
            f"world.files.generator: {next(iter(files.paths['generator']))} is only a part of one; "
            "name a StyleGAN"
        )
    trunk = faces.expression_trunk(files.network("expression"))
    return files.world(generator, trunk, *_perceptual(files))


def _perceptual(files: Files) -> tuple[faces.Perceptual, faces.Perceptual]:
    """What trains and what measures: LPIPS on VGG-16 and on AlexNet; one network where one is given
    for both, and reports then say so."""
    built = [(network, module) for _, network, module in files.networks("perceptual")]
    networks = faces.perceptuals(built)
    if not networks:
        needed = "lpips" if "fid_inception" in dict(built) else "fid_inception"
        raise DeidError(f"world.files.perceptual: no {needed} among them; add its file")
    only = next(iter(networks.values()))
    return networks.get("vgg", only), networks.get("alex", only)
