"""The photo world's generator: a public mapping and synthesis network, and heads of our own."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from torch import nn

from deid.errors import DeidError
from deid.nets.mobile_stylegan import MobileStyleGAN, MobileSynthesis, StyleMapping
from deid.weights.importers import build, read_checkpoint
from deid.weights.store import Store, weight_path
from deid.worlds.cards import read_verified

OURS = Path(__file__).parent / "weights"
"""`heads.safetensors`: small heads and mean w, of which `pretrain.heads` is the training."""


def load_generator(
    networks: Mapping[str, nn.Module], resolution: int
) -> tuple[MobileStyleGAN, str]:
    """The generator, frozen, and the hash of its heads; `networks` by name, as they were built.

    Raises DeidError where the heads are missing, changed or do not fit.
    """
    generator = _assembled(networks, resolution)
    state, sha256 = read_verified(OURS, "heads")
    generator.load_ours(state)
    return generator.eval().requires_grad_(False), sha256


def public_generator(store: Store | None = None) -> MobileStyleGAN:
    """The generator without anything of ours: untrained heads, no mean w."""
    networks = {}
    for part in ("synthesis", "mapping"):
        imported = read_checkpoint(weight_path(f"mobile-stylegan-{part}", store))
        networks[imported.network] = build(imported)
    return _assembled(networks, None).eval().requires_grad_(False)


def _assembled(networks: Mapping[str, nn.Module], resolution: int | None) -> MobileStyleGAN:
    if networks.keys() != {"style_mapping", "mobile_synthesis"}:
        raise DeidError(
            "world.files.generator: the photo world takes a StyleGAN2 mapping and a MobileStyleGAN "
            "synthesis, nothing else; for another generator set world.name to ffhq"
        )
    return MobileStyleGAN(
        cast(StyleMapping, networks["style_mapping"]),
        cast(MobileSynthesis, networks["mobile_synthesis"]),
        resolution,
    )
