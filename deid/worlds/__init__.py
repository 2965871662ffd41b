"""Worlds: bundles of pretrained networks behind one interface (`deid.worlds.world.World`)."""

from deid.params import WorldParams
from deid.worlds.world import World


def load_world(params: WorldParams) -> World:
    """The world named in `params`, every weight file verified.

    Raises DeidError naming a file that is missing, unreadable or changed, and the remedy.
    """
    if params.name == "ffhq":
        from deid.worlds.ffhq.world import load_ffhq_world

        return load_ffhq_world(params)
    from deid.worlds.mini.world import load_mini_world

    return load_mini_world(params.weights)
