"""`deid attack`: read, cut, embed, attack, measure, write. Nothing is kept but the results."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from deid.attack.attackers import ATTACKERS, Searches, attack, see, where_it_survives
from deid.attack.crops import Crops, cut
from deid.attack.findings import (
    Best,
    Outcomes,
    best,
    by_group,
    found_by_any,
    outcomes,
    tables,
    worst_group,
)
from deid.attack.groups import groups
from deid.attack.hifd import Predictions, predictions, write_hifd
from deid.attack.pairs import open_folders, read_pairs
from deid.attack.recognizers import Recognizer, build_detectors, recognizers
from deid.attack.report import Page, write_page
from deid.attack.utility import describe, quality, utility
from deid.errors import DeidError
from deid.gate.place import Placing
from deid.progress import progress
from deid.storage.staging import write_atomically
from deid.worlds.world import World

METRICS, PAGE = "metrics.json", "index.html"
FILE_SIDE = 256  # at least, for recognizers from files
FEW = 3  # recognizers that an examination should have


@dataclass(frozen=True)
class Limits:
    """What outputs may not exceed; None: whatever it is. Shares from 0 to 1."""

    max_rank1: float | None = None
    max_tar: float | None = None
    min_detected: float | None = None


@dataclass(frozen=True)
class AttackSettings:
    """What is examined, and by whom."""

    originals: str
    outputs: str
    out: Path
    table: Path | None = None
    people: str = "auto"
    again: str | None = None
    recognizers: tuple[str, ...] = ()
    detectors: tuple[str, ...] = ()
    detect_size: int = 640
    seed: int = 0
    compare: tuple[Path, ...] = ()
    pictures: bool = True
    limits: Limits = Limits()


def examine(world: World, settings: AttackSettings) -> dict[str, Any]:
    """Write `metrics.json`, `index.html` and `hifd/` to `settings.out`; answer the metrics, whose
    `exceeded` names each limit that does not hold.

    Raises DeidError for what cannot be read, or compared.
    """
    networks = recognizers(world, settings.recognizers)
    crops = _crops(world, settings)
    with progress("attack", 4) as bar:
        seen = see(crops, networks)
        bar.advance()
        searches, left_out = attack(seen)
        bar.advance()
        parts = where_it_survives(crops, networks)
        bar.advance()
        before, after = (describe(world, faces) for faces in (crops.originals, crops.outputs))
        kept, good = utility(world, crops, before, after), quality(world, crops)
        bar.advance()
    of = outcomes(searches)
    chosen = best(of)
    found = by_group(of, chosen, groups(crops, before.person), settings.seed)
    metrics: dict[str, Any] = {
        "about": _about(world, settings, crops, networks),
        "best": _best_figures(of, chosen, settings.seed),
        "found_by_any": found_by_any(of),
        "attacks": tables(of, settings.seed),
        "not_tried": left_out,
        "where": _where(parts, settings.seed),
        "groups": found,
        "worst_group": worst_group(found),
        "utility": {name: asdict(figure) for name, figure in kept.items()},
        "quality": {name: asdict(figure) for name, figure in good.items()},
        "limits": asdict(settings.limits),
    }
    metrics["exceeded"] = exceeded(metrics, settings.limits)
    _write(settings, Page(metrics, crops, searches, of, chosen), predictions(seen, before, after))
    return metrics


def _write(settings: AttackSettings, page: Page, made: Sequence[Predictions]) -> None:
    content = json.dumps(page.metrics, indent=2) + "\n"
    write_atomically(settings.out / METRICS, content.encode())
    write_hifd(settings.out / "hifd", [pair.original for pair in page.crops.pairs], made)
    write_page(settings.out / PAGE, page, settings.compare, settings.pictures)


def exceeded(metrics: Mapping[str, Any], limits: Limits) -> list[str]:
    """Each limit that does not hold, in words."""
    best_of, found = metrics["best"], metrics["utility"]
    detected = {n: f for n, f in found.items() if n.startswith("detected_")}
    least = min(figure["value"] for figure in detected.values())
    rank1, tar = best_of["rank1"]["value"], best_of["tar"]["value"]
    said = []
    if limits.max_rank1 is not None and rank1 > limits.max_rank1:
        said.append(f"rank-1 {rank1:.1%} is more than {limits.max_rank1:.1%}")
    if limits.max_tar is not None and tar > limits.max_tar:
        said.append(f"TAR {tar:.1%} is more than {limits.max_tar:.1%}")
    if limits.min_detected is not None and least < limits.min_detected:
        said.append(f"faces found in {least:.1%} are less than {limits.min_detected:.1%}")
    return said


def _crops(world: World, settings: AttackSettings) -> Crops:
    folders = open_folders(settings.originals, settings.outputs, settings.again)
    pairs = read_pairs(folders, settings.table, settings.people)
    side = max(world.resolution, FILE_SIDE) if settings.recognizers else world.resolution

    def landmarks(images: Tensor) -> Tensor:
        return world.landmarks(images.to(world.device))

    placing = Placing(landmarks, side, refine=True)
    detectors = build_detectors(world, settings.detectors, settings.detect_size)
    with progress("read", len(pairs)) as bar:
        crops = cut(folders, pairs, detectors, placing, bar)
    if settings.again is not None and crops.again is None:
        raise DeidError(
            f"{settings.again}: lacks pictures; anonymize all originals again, with another seed"
        )
    return crops


def _best_figures(of: Outcomes, chosen: Mapping[str, Best], seed: int) -> dict[str, Any]:
    shown = {}
    for figure, who in chosen.items():
        made = tables({who.attacker: {who.recognizer: of[who.attacker][who.recognizer]}}, seed)
        shown[figure] = made[who.attacker][who.recognizer][figure] | vars(who)
    return shown


def _where(parts: Mapping[str, Searches], seed: int) -> dict[str, Any]:
    return {part: tables(outcomes(found), seed) for part, found in parts.items()}


def _about(
    world: World, settings: AttackSettings, crops: Crops, networks: Sequence[Recognizer]
) -> dict[str, Any]:
    """What was examined, and what should be known about it."""
    warnings = [f"{count} {note}" for note, count in crops.notes.items()]
    if len(networks) < FEW:
        warnings.append(f"{len(networks)} recognizers only: name others with --recognizer")
    return {
        "originals": settings.originals,
        "outputs": settings.outputs,
        "again": settings.again,
        "pictures": len(crops.pairs),
        "people": len({pair.person for pair in crops.pairs}),
        "missing": list(crops.missing),
        "warnings": warnings,
        "world": world.name,
        "weights_sha256": world.weights_sha256,
        "recognizers": {network.name: network.part for network in networks},
        "attackers": dict(ATTACKERS),
        "seed": settings.seed,
    }
