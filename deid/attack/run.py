"""`deid attack`: read, cut, embed, attack, measure, write. Nothing is kept but the results."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deid.attack.attackers import (
    ATTACKERS,
    Searches,
    Seen,
    attack,
    one_person,
    see,
    where_it_survives,
)
from deid.attack.crops import Crops, cut
from deid.attack.donors import crowds
from deid.attack.findings import (
    Best,
    all_hits,
    best,
    by_group,
    found_by_any,
    tables,
    worst_group,
)
from deid.attack.groups import groups
from deid.attack.hifd import Predictions, composite, predictions, write_hifd
from deid.attack.linkage import Kept, parts_of
from deid.attack.pairs import Folders, open_folders, read_pairs, strays
from deid.attack.recognizers import (
    EN_ID,
    INDEPENDENT,
    NamedRecognizer,
    build_detectors,
    recognizers,
)
from deid.attack.report import Page, write_page
from deid.attack.settings import AttackSettings
from deid.attack.utility import Reading, describe, quality, utility
from deid.errors import DeidError
from deid.gate.place import Placing
from deid.params import AnonymizeParams
from deid.progress import progress
from deid.storage.staging import write_atomically
from deid.worlds.world import World

METRICS, PAGE = "metrics.json", "index.html"
FURTHER = {"A0", "A2"}  # who searches faces of whose person there is no other picture
FILE_SIDE = 256  # at least, for recognizers from files
FEW = 3  # recognizers, and detectors, that an examination should have
UNSEARCHED = {
    "missing": "outputs that are missing",
    "unexamined": "outputs of which a face could not be looked at, or is elsewhere",
    "strays": "outputs without an original",
}
"""What may not be where there is a limit, by its place in `about`."""


def examine(
    world: World, originals: str, outputs: str, out: Path, settings: AttackSettings
) -> dict[str, Any]:
    """Write the report to `out`; answer its metrics. `DeidError` for what cannot be compared."""
    networks = recognizers(world, settings.recognizers)
    everyone = _crops(world, open_folders(originals, outputs, settings.again), settings)
    crops = everyone.largest()
    with progress("attack", 3) as bar:
        before, after = (describe(world, faces) for faces in (crops.originals, crops.outputs))
        kept = Kept(parts_of(after, crops.outputs), parts_of(before, crops.originals))
        seen = see(crops, networks, settings.fine_tune if "A2+" in settings.asked else 0, kept)
        bar.advance()
        same = _one_person(seen)
        searches, left_out = attack(seen, settings.asked, same)
        parts = where_it_survives(crops, networks, settings.asked, same)
        bar.advance()
        useful, good = utility(world, crops, before, after), quality(world, crops)
        bar.advance()
    told = predictions(seen, _independent(networks), before, after)
    chosen, attacks = best(of := all_hits(searches)), tables(of, settings.seed)
    harm = _best_figures(attacks, chosen)
    found = by_group(of, chosen, groups(crops, before.person), settings.seed)
    about = _about(world, settings.called or (originals, outputs), settings, crops, networks)
    metrics: dict[str, Any] = {
        "about": about | {"taken_for_one": _taken_for_one(same, seen, crops)},
        "best": harm,
        "found_by_any": found_by_any(of),
        "attacks": attacks,
        "not_tried": left_out,
        "where": _where(parts, settings.seed),
        "groups": found,
        "worst_group": {f: worst_group(found, harm, f) for f in ("rank1", "tar")},
        "donors": _donors(world, seen, crops, settings),
        "others": _others(everyone, networks, settings),
        "limits": settings.limits,
        **_useful(useful, good, told),
    }
    metrics["exceeded"] = exceeded(metrics, settings)
    _write(out, settings, Page(metrics, crops, searches, of, chosen), told)
    return metrics


def _others(
    everyone: Crops, networks: Sequence[NamedRecognizer], settings: AttackSettings
) -> dict[str, float]:
    """What the best attacker finds of the faces beside each picture's largest one, searched among
    all faces; a figure of their own, for a crowd would hide in one mean who is found."""
    rows = np.array([pair.face > 1 for pair in everyone.pairs])
    if not rows.any():
        return {}
    seen = see(replace(everyone, again=None), networks)
    same = one_person(seen.originals, seen.people)
    found = all_hits(attack(seen, FURTHER & set(settings.asked), same)[0])
    every = [one for by_name in found.values() for one in by_name.values()]
    shares = {
        figure: max(float(one.values[figure][rows[one.rows]].mean()) for one in every)
        for figure in ("rank1", "tar", "tar_calibrated")
    }
    return {"faces": int(rows.sum()), "gallery": len(np.unique(seen.people)), **shares}


def _useful(
    kept: Mapping[str, Reading], good: Mapping[str, Reading], told: Sequence[Predictions]
) -> dict[str, Any]:
    """Utility, quality, and HiFD's score of both and of privacy."""
    natural, apart = good.get("niqe"), good.get("lpips_standard", good["lpips"])
    return {
        "utility": {name: asdict(reading) for name, reading in kept.items()},
        "quality": {name: asdict(reading) for name, reading in good.items()},
        "hifd": composite(told, apart.value, natural.value if natural else None),
    }


def _independent(networks: Sequence[NamedRecognizer]) -> list[str]:
    return [one.name for one in networks if one.part == INDEPENDENT]


def _write(out: Path, settings: AttackSettings, page: Page, made: Sequence[Predictions]) -> None:
    content = json.dumps(page.metrics, indent=2) + "\n"
    write_atomically(out / METRICS, content.encode())
    names = [pair.original for pair in page.crops.pairs]
    if len(set(names)) < len(names):  # a table may give an original several outputs
        names = [f"{pair.original} {pair.output}" for pair in page.crops.pairs]
    write_hifd(out / "hifd", names, made)
    write_page(out / PAGE, page, settings.compare, settings.pictures)


def exceeded(metrics: Mapping[str, Any], limits: AttackSettings) -> list[str]:
    """Each limit that does not hold, in words."""
    best_of, found = metrics["best"], metrics["utility"]
    detected = {n: f for n, f in found.items() if n.startswith("detected_")}
    least = min(figure["value"] for figure in detected.values())
    rank1 = best_of["rank1"]["value"]
    tar = max(best_of[figure]["value"] for figure in ("tar", "tar_calibrated"))
    said = []
    if limits.max_rank1 is not None and rank1 > limits.max_rank1:
        found_by = metrics["attacks"][best_of["rank1"]["attacker"]]
        chance = found_by[best_of["rank1"]["recognizer"]]["chance"]["rank1"]
        said.append(
            f"rank-1 {rank1:.1%} is more than {limits.max_rank1:.1%} (guessing: {chance:.1%})"
        )
    if limits.max_tar is not None and tar > limits.max_tar:
        said.append(f"TAR {tar:.1%} is more than {limits.max_tar:.1%}")
    if limits.min_detected is not None and least < limits.min_detected:
        said.append(f"faces found in {least:.1%} are less than {limits.min_detected:.1%}")
    if others := metrics["others"]:
        tar = max(others["tar"], others["tar_calibrated"])
        for name, share, most in (
            ("rank-1", others["rank1"], limits.max_rank1),
            ("TAR", tar, limits.max_tar),
        ):
            if most is not None and share > most:
                said.append(f"{name} {share:.1%} of further faces is more than {most:.1%}")
    if any(limit is not None for limit in limits.limits.values()):
        said += _unsearched(metrics, limits)
    return said


def _unsearched(metrics: Mapping[str, Any], limits: AttackSettings) -> list[str]:
    """What no limit can vouch for, in words."""
    said = []
    for kind, why in UNSEARCHED.items():
        if names := metrics["about"][kind]:
            first = f"{names[0]}{', …' if len(names) > 1 else ''}"
            said.append(f"nobody searched {why}: {len(names)} ({first})")
    for attacker in limits.attackers:
        if why := metrics["not_tried"].get(attacker):
            said.append(f"{attacker} was asked for: {why}")
    return said


def _one_person(seen: Seen) -> NDArray[np.bool_]:
    """`one_person`; `DeidError` where that leaves no strangers."""
    same = one_person(seen.originals, seen.people)
    if same.all():
        raise DeidError("all originals show one person; --people or --pairs says who is who")
    return same


def _taken_for_one(same: NDArray[np.bool_], seen: Seen, crops: Crops) -> list[list[str]]:
    """People who are one to all recognizers, by a picture of each; none counts as a stranger of the
    other."""
    first = np.unique(seen.people, return_index=True)[1]
    pairs = np.argwhere(np.triu(same, 1))
    return [[crops.pairs[first[one]].original for one in two] for two in pairs]


def _crops(world: World, folders: Folders, settings: AttackSettings) -> Crops:
    pairs = read_pairs(folders, Path(settings.pairs) if settings.pairs else None, settings.people)
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
    if settings.pairs:
        return crops  # a table may choose
    return replace(crops, strays=tuple(strays(folders.outputs, pairs)))


def _best_figures(attacks: Mapping[str, Any], chosen: Mapping[str, Best]) -> dict[str, Any]:
    return {
        figure: attacks[who.attacker][who.recognizer][figure] | vars(who)
        for figure, who in chosen.items()
    }


def _donors(world: World, seen: Seen, crops: Crops, settings: AttackSettings) -> dict[str, float]:
    """What the donors of swaps tell; nothing unless outputs are said to be some."""
    if settings.donor_pool is None:
        return {}
    anonymize = settings.anonymize or AnonymizeParams()
    made = anonymize.model_copy(update={"swap_pool": settings.donor_pool or None})
    return crowds(world, made, crops.originals, seen.outputs[EN_ID], seen.people).figures()


def _where(parts: Mapping[str, Searches], seed: int) -> dict[str, Any]:
    return {part: tables(all_hits(found), seed) for part, found in parts.items()}


def _about(
    world: World,
    named: tuple[str, str],
    settings: AttackSettings,
    crops: Crops,
    networks: Sequence[NamedRecognizer],
) -> dict[str, Any]:
    """What was examined, as it is `named`, and what should be known about it."""
    warnings = [f"{count} {note}" for note, count in crops.notes.items()]
    if len(networks) < FEW:
        warnings.append(f"{len(networks)} recognizers only: name others with --recognizer")
    if len(crops.found) < FEW:
        warnings.append(f"{len(crops.found)} detectors only: name others with --detector")
    return {
        "originals": named[0],
        "outputs": named[1],
        "again": settings.again,
        "pictures": len(crops.pairs),
        "people": len({pair.person for pair in crops.pairs}),
        "missing": list(crops.missing),
        "unexamined": list(crops.unexamined),
        "strays": list(crops.strays),
        "warnings": warnings,
        "world": world.name,
        "weights_sha256": world.weights_sha256,
        "recognizers": {network.name: network.part for network in networks},
        "attackers": {name: ATTACKERS[name] for name in settings.asked},
        "seed": settings.seed,
    }
