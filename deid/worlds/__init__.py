"""Worlds: bundles of pretrained networks behind one interface (`deid.worlds.world.World`)."""

from typing import TYPE_CHECKING

from deid.params import WorldParams

if TYPE_CHECKING:  # it brings torch, which `deid weights` does without
    from deid.worlds.world import World


def load_world(params: WorldParams) -> "World":
    """The world named in `params`, every weight file verified.

    Raises DeidError naming a file that is missing, unreadable or changed, and the remedy.
    """
    from deid.worlds.mini.world import load_mini_world

    return load_mini_world(params.weights)
