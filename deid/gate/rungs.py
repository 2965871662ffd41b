"""The anonymizers of a ladder: each rung stronger than the one above it."""

from collections.abc import Mapping

from deid.anonymize import Anonymizer, ModelPaths, build
from deid.errors import DeidError
from deid.gate.fallback import COARSE, OPAQUE, base, ladder, refinement
from deid.params import AnonymizeParams
from deid.worlds.world import World

COARSE_BLOCKS, COARSEST_BLOCKS = 4, 3  # across the crop, of which a face is about the half
STRETCH = 1.5  # of δ
STRONGER = 2.0  # of ε
WIDER = 1.5  # of blur


def build_rungs(
    method: str, world: World, models: ModelPaths | None, settings: AnonymizeParams
) -> Mapping[str, Anonymizer]:
    """An anonymizer for every rung of `method`'s ladder but the mask.

    `DeidError` where `method` itself cannot be built; a later rung that cannot, because its
    networks are not there, is left out, and faces go past it.
    """
    built: dict[str, Anonymizer] = {}
    for rung in ladder(method):
        if rung == OPAQUE:
            continue
        same = built.get(base(rung)) if base(rung) == "swap" else None  # another seed is enough
        try:
            built[rung] = same or _build(rung, method, world, models, settings)
        except DeidError:
            if rung == method:
                raise
    return built


def _build(
    rung: str, method: str, world: World, models: ModelPaths | None, settings: AnonymizeParams
) -> Anonymizer:
    if rung == method:
        return build(method, world, models, settings)
    change = _changes(rung, method, settings)
    return build(base(rung), world, models, settings.model_copy(update=change))


def _changes(rung: str, method: str, settings: AnonymizeParams) -> dict[str, float]:
    if rung == COARSE:
        return {"pixelate_blocks": min(COARSE_BLOCKS, settings.pixelate_blocks)}
    if not refinement(rung):
        return {}
    kind = base(rung)
    if kind in ("fgsm", "pgd"):
        return {f"{kind}_epsilon": min(1.0, STRONGER * _epsilon(method, settings))}
    changes: dict[str, dict[str, float]] = {
        "adversarial": {"adversarial_stretch": STRETCH},
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
