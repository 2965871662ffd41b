"""Which fallback level comes next when a face was not made safe, and what anonymizes at each.

A level is a method, `swap`, or a refinement of it, `swap+1`: the same method with another seed,
gradient steps or more strength. Every fallback chain ends in coarse pixels and an opaque mask.
"""

from collections.abc import Iterable, Mapping

from deid.anonymize import Anonymizer, ModelPaths, build
from deid.anonymize.refine import STEPS
from deid.anonymize.swap import Expression
from deid.errors import DeidError
from deid.params import AnonymizeParams
from deid.secret import SecretKey
from deid.worlds.world import World

OPAQUE = "mask"
"""The last level. It carries nothing of the face, so no recognizer needs to judge it."""

COARSE = "pixelate"
"""The level before it; coarser than the method of that name where it is not what was asked for."""

GENERATIVE = frozenset(
    [
        *("swap", "adversarial", "reconstruction", "ksame"),
        *("alae", "infogan", "beta", "fsgan", "faceshifter", "ciagan"),
    ]
)
"""Methods that make a whole new face; the others change or destroy the one that is there."""

RESHAPED = frozenset({"swap"})
"""Those among them whose head has a shape of its own."""

DESTRUCTIVE = frozenset({"blur", "pixelate"})
"""Methods that must cover the whole face, to its edge."""

SMALLEST_JUDGED = 24
"""Longer side of a face's box, in pixels, below which judges are not trusted to say that it is
unrecognizable: such a face is destroyed, whatever was asked for."""

COARSE_BLOCKS, COARSEST_BLOCKS = 4, 3  # across the crop, of which a face is about the half
STRETCH, FARTHEST = 1.5, 4.0  # of δ
STRONGER = 2.0  # of ε
WIDER = 1.5  # of blur

FEW_STEPS = 4
"""Of a swap's gradient at its first refinement, which is enough for half of the faces: of 8
portraits that were still known 4 were not after 4 steps, 5 after 8, 6 after 16."""

_SWAPS = ("swap+1", "swap+2", "swap+3")
_FURTHER = {
    "swap": (*_SWAPS, COARSE),
    "adversarial": ("adversarial+1", "swap", *_SWAPS, COARSE),
    "fgsm": ("fgsm+1", "pgd+1", COARSE),
    "pgd": ("pgd+1", "blur", COARSE),
    "blur": ("blur+1", COARSE),
    "pixelate": ("pixelate+1",),
    OPAQUE: (),
}


def fallback_chain(method: str) -> tuple[str, ...]:
    """The levels for `method` (`fgsm-0.03` has its own ε), in order: itself, refined, a stronger
    one, coarse pixels, an opaque mask."""
    further = _FURTHER.get(base(method), (COARSE,))
    return tuple(dict.fromkeys((method, *further, OPAQUE)))


def small_face_chain(method: str) -> tuple[str, ...]:
    """The levels for a face too small to be judged."""
    if base(method) == OPAQUE:
        return (OPAQUE,)
    # That method's own blocks may be as fine as anybody asks for.
    return (f"{COARSE}+1" if base(method) == COARSE else COARSE, OPAQUE)


def levels_of(method: str, small: bool, available: Iterable[str]) -> tuple[str, ...]:
    """The levels of a face. A later one that is not `available`, because its networks are not
    here, is passed over; the first one is not."""
    levels = small_face_chain(method) if small else fallback_chain(method)
    there = {*available, levels[0], OPAQUE}
    return tuple(level for level in levels if level in there)


def base(level: str) -> str:
    """The method of a level without its kind, ε and refinement: `pgd+1` and `pgd-0.03` are `pgd`,
    `ksame-select` is `ksame`."""
    return level.partition("+")[0].partition("-")[0]


def refinement(level: str) -> int:
    """How often a level's method was refined: 1 for `swap+1`."""
    return int(level.partition("+")[2] or 0)


def build_anonymizers(
    method: str,
    world: World,
    models: ModelPaths | None,
    settings: AnonymizeParams,
    key: SecretKey | None = None,
    expression: Expression = "own",
) -> Mapping[str, Anonymizer]:
    """An anonymizer for every level of `method`'s fallback chain but the mask; with a `key`, later
    refinements of a swap give other pseudonyms, as they would take other donors.

    `DeidError` where `method` itself cannot be built; a later level that cannot, because its
    networks are not there, is left out, and faces go past it.
    """
    built: dict[str, Anonymizer] = {}
    made: dict[tuple[str, ...], Anonymizer] = {}  # alike ones are built once
    for level in fallback_chain(method):
        if level == OPAQUE:
            continue
        kind = method if level == method else base(level)
        stronger = _settings(level, method, settings)
        own = key.numbered(_pseudonym(level, settings)) if key is not None else None
        alike = kind, stronger.model_dump_json(), own.identity if own is not None else ""
        try:
            if alike not in made:
                made[alike] = build(kind, world, models, stronger, own, expression)
            built[level] = made[alike]
        except DeidError:
            if level == method:
                raise
    return built


def _pseudonym(level: str, settings: AnonymizeParams) -> int:
    """Which of a person's pseudonyms a level of a swap gives: the first one again while there are
    gradient steps that were not taken, for only it links their pictures."""
    again = refinement(level)
    return max(0, again - 1) if settings.swap_steps < FEW_STEPS else again


def _settings(level: str, method: str, settings: AnonymizeParams) -> AnonymizeParams:
    """What a level is built with: as asked for, or with more strength."""
    if level == method:
        return settings
    return settings.model_copy(update={"strength": 1.0} | _changes(level, method, settings))


def _changes(level: str, method: str, settings: AnonymizeParams) -> dict[str, float | None]:
    if level == COARSE:
        return {"pixelate_blocks": min(COARSE_BLOCKS, settings.pixelate_blocks)}
    if not refinement(level):
        return {}
    kind = base(level)
    if kind in ("fgsm", "pgd"):
        return {f"{kind}_epsilon": min(1.0, STRONGER * _epsilon(method, settings))}
    changes: dict[str, dict[str, float | None]] = {
        "swap": {
            "swap_steps": max(FEW_STEPS if refinement(level) == 1 else STEPS, settings.swap_steps)
        },
        "adversarial": {
            "adversarial_stretch": min(FARTHEST, STRETCH * settings.adversarial_stretch),
            "adversarial_distance": None,
        },
        "blur": {"blur_sigma": min(1.0, WIDER * settings.blur_sigma)},
        "pixelate": {"pixelate_blocks": min(COARSEST_BLOCKS, settings.pixelate_blocks)},
    }
    return changes[kind]


def _epsilon(method: str, settings: AnonymizeParams) -> float:
    """The ε that was asked for; a stronger attack than FGSM is given no less of it."""
    _, _, own = method.partition("-")
    if own:
        return float(own)
    return settings.fgsm_epsilon if base(method) == "fgsm" else settings.pgd_epsilon
