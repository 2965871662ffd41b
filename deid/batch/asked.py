"""What a run asks of the methods, and whether it can be had."""

from typing import cast, get_args

from deid.anonymize import METHODS, RIVALS, ModelPaths, invert, kind_of, refine
from deid.anonymize.donor_pool import KEEPABLE, LEAST, POSE
from deid.anonymize.swap import Expression
from deid.batch.settings import TRAINED, RunSettings, is_secret
from deid.errors import DeidError
from deid.params import AnonymizeParams
from deid.worlds.world import RegionName, World

DONORS = ("alike", "any")
QUALITIES = ("normal", "high")
KEPT_WITH_KEY = ("sex",)
"""Age and skin, as they are measured, differ from view to view, and pseudonyms would with them."""


def anonymize_params(settings: RunSettings) -> AnonymizeParams:
    """The methods' settings, with what was asked for in this run."""
    if settings.donor not in (None, *DONORS):
        raise DeidError(f"--donor {settings.donor}: unknown; choose {' or '.join(DONORS)}")
    if settings.quality not in QUALITIES:
        chosen = " or ".join(QUALITIES)
        raise DeidError(f"--quality {settings.quality}: unknown; choose {chosen}")
    own = settings.anonymize or AnonymizeParams()
    changes: dict[str, object] = {"swap_donors": settings.donor} if settings.donor else {}
    if settings.strength != 1.0:
        changes["strength"] = _strength(settings) * own.strength
    if settings.keep_attributes is not None:
        changes["swap_keep"] = _kept(settings.keep_attributes)
    elif settings.key is not None:
        changes["swap_keep"] = (*KEPT_WITH_KEY, *(name for name in own.swap_keep if name == POSE))
    if settings.donor_pool is not None:
        changes["swap_pool"] = _pool(settings)
    if settings.quality == "high":
        changes |= {"swap_steps": refine.STEPS, "adversarial_steps": invert.STEPS}
    return own.model_copy(update=changes)


def check_method(method: str, models: ModelPaths | None) -> None:
    """`DeidError` for a method that nobody knows, or whose networks are not here."""
    base, choices = kind_of(method), (*METHODS, *RIVALS)
    if base not in choices:
        raise DeidError(f"method {method!r}: unknown; choose one of {', '.join(choices)}")
    if base in TRAINED and models is None:
        raise DeidError(
            f"--method {method} draws with networks that are not trained here: give "
            "--world photo for photographs, run `dvc repro` first, or choose --method blur, "
            "pixelate or mask"
        )


def region_of(settings: RunSettings, world: World) -> RegionName:
    """What a new face replaces: as asked, or as the world says."""
    if settings.region not in (None, *get_args(RegionName)):
        raise DeidError(f"region {settings.region!r}: unknown; choose face, head or portrait")
    return cast(RegionName, settings.region or world.region)


def expression_of(settings: RunSettings, asked: AnonymizeParams, region: RegionName) -> Expression:
    """Whose expression a swap draws; `DeidError` where another's would not fit."""
    if settings.expression not in get_args(Expression):
        chosen = " or ".join(get_args(Expression))
        raise DeidError(f"expression {settings.expression!r}: unknown; choose {chosen}")
    expression = cast(Expression, settings.expression)
    if expression == "another" and (region != "portrait" or settings.method != "swap"):
        raise DeidError(
            "expression another: only method swap with region portrait leaves nothing of the "
            "person beside it that must fit"
        )
    if expression == "another" and POSE in asked.swap_keep:
        raise DeidError("expression another: has another pose; leave pose out of what is kept")
    return expression


def notes_for(settings: RunSettings) -> tuple[str, ...]:
    """What a run says beside its summary: where another expression hides less than it could."""
    if settings.expression == "own" or settings.key is not None or is_secret(settings.seed):
        return ()
    return (
        "note: who has a photograph and this code makes the same output again with seed "
        f"{settings.seed}, or tries all small ones, and so tells whose it is; give a --seed-file "
        "or a --key (`deid key new FILE`) and keep it",
    )


def check_pose(asked: AnonymizeParams, world: World) -> None:
    """`DeidError` where the pose is to be kept in a world that cannot."""
    if POSE in asked.swap_keep and world.turns is None:
        raise DeidError(
            f"--keep-attributes pose (swap_keep): the world {world.name} does not know how heads "
            "turn; photo does"
        )


def _strength(settings: RunSettings) -> float:
    if not 0.0 <= settings.strength <= 1.0:
        raise DeidError(f"--strength {settings.strength:g}: must be from 0 to 1")
    if settings.method not in TRAINED:
        raise DeidError(f"--strength: {settings.method} has none; give swap or adversarial")
    return settings.strength


def _pool(settings: RunSettings) -> int | None:
    if settings.donor_pool is not None and settings.donor_pool < LEAST:
        raise DeidError(f"--donor-pool {settings.donor_pool}: must be {LEAST} or more")
    if settings.method != "swap" or settings.key is not None:
        raise DeidError("--donor-pool: only --method swap without a --key has donors")
    return settings.donor_pool


def _kept(text: str) -> tuple[str, ...]:
    """`age,sex` in the one order in which its parts count; `gender`, as others say, is the sex."""
    named = [name.strip() for name in text.split(",") if name.strip()]
    asked = ["sex" if name == "gender" else name for name in named]
    if unknown := [name for name in asked if name not in KEEPABLE]:
        raise DeidError(f"--keep-attributes {unknown[0]}: unknown; choose of {', '.join(KEEPABLE)}")
    if not asked:
        raise DeidError("--keep-attributes: names nothing; for any stranger give --donor any")
    return tuple(name for name in KEEPABLE if name in asked)
