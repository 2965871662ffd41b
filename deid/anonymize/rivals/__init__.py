"""Rivals from the field, one file a method, each after its paper.

They attack or average with what a world trains with (En_id, En_expr's trunk, perceptual features),
never with a recognizer that reports or selects; `undetected` attacks the detector. What each
departs from stands in its docstring; docs/rivals.md has them side by side, and names those that are
missing.
"""

from collections.abc import Callable, Mapping
from typing import cast

from deid.anonymize.base import Anonymizer
from deid.anonymize.rivals.alae import ALAE
from deid.anonymize.rivals.beta_vae import ResampledFactors
from deid.anonymize.rivals.ciagan import CIAGAN
from deid.anonymize.rivals.face_shifter import FaceShifter
from deid.anonymize.rivals.fawkes import Fawkes
from deid.anonymize.rivals.fsgan import FSGAN
from deid.anonymize.rivals.glasses import frame
from deid.anonymize.rivals.hat import sticker
from deid.anonymize.rivals.infogan import RedrawnCodes
from deid.anonymize.rivals.k_same import KSame
from deid.anonymize.rivals.learned import load_trained
from deid.anonymize.rivals.lowkey import LowKey
from deid.anonymize.rivals.overlay import Overlay
from deid.anonymize.rivals.patch import disk
from deid.anonymize.rivals.tip_im import TIPIM
from deid.anonymize.rivals.undetected import Undetected
from deid.nets.alae import Autoencoder
from deid.nets.beta_vae import BetaVAE
from deid.nets.ciagan import Generator
from deid.nets.face_shifter import Swapper
from deid.nets.fsgan import Generators
from deid.nets.infogan import InfoGAN
from deid.nets.style import StyleGenerator
from deid.worlds.world import World


def _alae(world: World) -> Anonymizer:
    def build() -> Autoencoder:
        return Autoencoder(cast(StyleGenerator, world.generator))

    return ALAE(world, load_trained("alae", world, build))


def _faceshifter(world: World) -> Anonymizer:
    def build() -> Swapper:
        return Swapper(world.identity.dim)

    return FaceShifter(world, load_trained("faceshifter", world, build))


RIVALS: Mapping[str, Callable[[World], Anonymizer]] = {
    "ksame-average": lambda world: KSame(world, "average"),
    "ksame-select": lambda world: KSame(world, "select"),
    "ksame-furthest": lambda world: KSame(world, "furthest"),
    "fawkes": Fawkes,
    "lowkey": LowKey,
    "tipim": TIPIM,
    "patch": lambda world: Overlay(world, "patch", disk),
    "glasses": lambda world: Overlay(world, "glasses", frame),
    "hat": lambda world: Overlay(world, "hat", sticker),
    "undetected": Undetected,
    # Learned, by `dvc repro` in data/rivals:
    "alae": _alae,
    "infogan": lambda world: RedrawnCodes(world, load_trained("infogan", world, InfoGAN)),
    "beta-vae": lambda world: ResampledFactors(world, load_trained("beta-vae", world, BetaVAE)),
    "fsgan": lambda world: FSGAN(world, load_trained("fsgan", world, Generators)),
    "faceshifter": _faceshifter,
    "ciagan": lambda world: CIAGAN(world, load_trained("ciagan", world, Generator)),
}
"""None needs a trained stage. Those that learn refuse a world in which they were not trained."""

SWAPPING_RIVALS = ("alae", "beta-vae", "fsgan", "faceshifter")
"""Those that are `Swapping`, and have a row in Table 2."""

REBUILDING_RIVALS = ("alae", "beta-vae", "fsgan", "faceshifter")
"""Those that are `Rebuilding`, and have a row in Table 3."""
