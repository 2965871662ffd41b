"""Anonymizers: aligned crops in, crops without the identity out.

One file a method. A new method is a new file and a line in `BUILDERS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from deid.anonymize import invert
from deid.anonymize.adversarial import Adversarial
from deid.anonymize.base import Anonymizer, Guarded, ModelPaths, working_side
from deid.anonymize.blur import Blur
from deid.anonymize.donor_pool import ATTRIBUTES, POSE, columns
from deid.anonymize.gradient import FGSM, MIFGSM, PGD, Together
from deid.anonymize.mask import Mask
from deid.anonymize.pixelate import Pixelate
from deid.anonymize.pseudonyms import PEOPLE, Pseudonyms
from deid.anonymize.reconstruction import Reconstruction
from deid.anonymize.rivals import REBUILDING_RIVALS, RIVALS, SWAPPING_RIVALS
from deid.anonymize.steering import Steering
from deid.anonymize.strangers import Strangers
from deid.anonymize.swap import Expression, Swap
from deid.errors import DeidError
from deid.model import Deidentifier
from deid.params import AnonymizeParams
from deid.secret import SecretKey
from deid.worlds.world import World

__all__ = [
    "METHODS",
    "REBUILDING_RIVALS",
    "RIVALS",
    "SWAPPING_RIVALS",
    "Anonymizer",
    "ModelPaths",
    "build",
    "build_swap",
    "kind_of",
]

Builder = Callable[[World, ModelPaths | None, AnonymizeParams], Anonymizer]


def build_swap(world: World, models: ModelPaths | None, settings: AnonymizeParams) -> Swap:
    """`swap`, bare: who measures it wants to know its donors."""
    alike = settings.swap_donors == "alike" and bool(columns(settings.swap_keep))
    if settings.swap_pool is not None and (world.donors is None or not alike):
        raise DeidError(
            "--donor-pool (swap_pool): needs a world with a bank of donors, such as photo, and "
            "donors who are alike"
        )
    model = _model("swap", world, models)
    return Swap(
        world,
        model,
        settings.swap_max_similarity,
        settings.swap_tries,
        alike=alike,
        steps=settings.swap_steps,
        keep=settings.swap_keep,
        strength=settings.strength,
        pool=settings.swap_pool,
    )


def with_key(swap: Swap, key: SecretKey) -> Swap:
    """The same with pseudonyms in place of donors: people like those of the world's bank, or like
    some drawn where it has none, and of the person's looks where donors are to be alike."""
    swap = replace(swap, pool=None)
    codes, bank = Strangers(swap.world, PEOPLE).codes, swap.bank
    keep = tuple(name for name in swap.keep if bank is not None or name == POSE)
    looks = bank.looks if bank is not None else codes.new_zeros(len(codes), 0)
    return replace(swap, keep=keep, pseudonyms=Pseudonyms.of_key(key, codes, looks))


def _adversarial(world: World, models: ModelPaths | None, settings: AnonymizeParams) -> Anonymizer:
    if models is not None and models.stage_two is None:
        raise DeidError("method adversarial: needs stage two; run `deid stage-two` first")
    model = _model("adversarial", world, models)
    stretch = settings.strength * settings.adversarial_stretch
    steps, farthest = settings.adversarial_steps, settings.adversarial_distance
    steering = Steering(world, model, turning=False, columns=columns(tuple(ATTRIBUTES)))
    return Adversarial(model, working_side(world), steering, stretch, steps, farthest)


def _reconstruction(world: World, models: ModelPaths | None, _: AnonymizeParams) -> Anonymizer:
    return Reconstruction(_model("reconstruction", world, models), working_side(world))


def _inversion(world: World, models: ModelPaths | None, single: bool) -> Anonymizer:
    name = "inversion-w" if single else "inversion"
    model, side = _model(name, world, models), working_side(world)
    return Reconstruction(model, side, invert.STEPS, name, single)


def _rival(name: str) -> Builder:
    return lambda world, _, __: RIVALS[name](world)


def _fgsm(world: World, _: ModelPaths | None, settings: AnonymizeParams) -> Anonymizer:
    return FGSM(Together(world.attacked), settings.fgsm_epsilon)


def _pgd(world: World, _: ModelPaths | None, settings: AnonymizeParams) -> Anonymizer:
    return PGD(Together(world.attacked), settings.pgd_epsilon, settings.pgd_steps)


def _momentum(world: World, settings: AnonymizeParams, smooth: bool = False) -> Anonymizer:
    return MIFGSM(Together(world.attacked), settings.fgsm_epsilon, settings.pgd_steps, smooth)


BUILDERS: Mapping[str, Builder] = {
    "swap": build_swap,
    "adversarial": _adversarial,
    "fgsm": _fgsm,
    "pgd": _pgd,
    # For evaluation only, as is reconstruction:
    "mifgsm": lambda world, _, settings: _momentum(world, settings),
    "tidim": lambda world, _, settings: _momentum(world, settings, smooth=True),
    "blur": lambda _, __, settings: Blur(settings.blur_sigma),
    "pixelate": lambda _, __, settings: Pixelate(settings.pixelate_blocks),
    "mask": lambda *_: Mask(),
    "reconstruction": _reconstruction,  # evaluation only, as is inversion: they protect nobody
    "inversion": lambda world, models, _: _inversion(world, models, single=False),
    "inversion-w": lambda world, models, _: _inversion(world, models, single=True),
    **{name: _rival(name) for name in RIVALS},
}

EPSILONS = {
    "fgsm": "fgsm_epsilon",
    "pgd": "pgd_epsilon",
    "mifgsm": "fgsm_epsilon",
    "tidim": "fgsm_epsilon",
}
"""The setting of each noise attack's ε."""

METHODS = ("swap", "adversarial", "fgsm", "pgd", "blur", "pixelate", "mask")
"""The methods a person may choose for pictures; `deid run` takes the `RIVALS`, too."""


def kind_of(method: str) -> str:
    """A method's name in `BUILDERS`, without its ε; `DeidError` for one that nobody knows."""
    if method in BUILDERS:
        return method
    base, dash, _ = method.partition("-")  # ε may be 1e-3
    if dash and base in EPSILONS:
        return base
    known = ", ".join((*METHODS, *RIVALS))
    raise DeidError(f"method {method!r}: unknown; choose one of {known}")


def build(
    method: str,
    world: World,
    models: ModelPaths | None,
    settings: AnonymizeParams,
    key: SecretKey | None = None,
    expression: Expression = "own",
) -> Anonymizer:
    """The anonymizer called `method`, guarded.

    `fgsm-0.03` and `pgd-0.03` carry their own ε. `models` is needed by swap, adversarial,
    reconstruction and inversion; a `key` gives swap pseudonyms, and `expression` says whose it
    draws. Raises `DeidError` for an unknown method, a wrong ε, or missing models.
    """
    kind = kind_of(method)
    if kind != method:
        epsilon = _epsilon(method, method.removeprefix(f"{kind}-"))
        settings = settings.model_copy(update={EPSILONS[kind]: epsilon})
    made = BUILDERS[kind](world, models, settings)
    if isinstance(made, Swap):
        made = replace(made, expression=expression)
        made = with_key(made, key) if key is not None else made
    return Guarded(made, method, world.device)


def _epsilon(method: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 < value <= 1.0:
        raise DeidError(f"method {method!r}: ε must be a number in (0, 1], as in fgsm-0.03")
    return value


def _model(method: str, world: World, models: ModelPaths | None) -> Deidentifier:
    if models is None:
        raise DeidError(f"method {method}: needs trained models; run `dvc repro` first")
    return Deidentifier.load(models.stage_one, models.stage_two, world)
