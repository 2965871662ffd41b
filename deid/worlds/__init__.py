"""Worlds: bundles of pretrained networks behind one interface (`deid.worlds.world.World`)."""

from typing import TYPE_CHECKING

from deid.params import WorldParams

if TYPE_CHECKING:
    import torch

    from deid.worlds.world import World


def load_world(params: WorldParams) -> "World":
    """The world named in `params`, every weight file verified, on the GPU where there is one.

    Raises DeidError naming a file that is missing, unreadable or changed, and the remedy.
    """
    if params.name == "photo":
        from deid.worlds.photo.world import load_photo_world

        return load_photo_world(params).to(best_device())
    if params.name == "ffhq":
        from deid.worlds.ffhq.world import load_ffhq_world

        return load_ffhq_world(params).to(best_device())
    from deid.worlds.mini.world import load_mini_world

    return load_mini_world(params.weights, params.truncation).to(best_device())


def best_device() -> "torch.device":
    """The GPU, or the CPU of a machine without one."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
