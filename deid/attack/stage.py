"""The stage `attack`: who is found of held-out people, de-identified as `deid run` does it."""

import csv
import io
import json
import shutil
from collections.abc import Mapping
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import cv2

from deid.attack.run import examine
from deid.attack.settings import AttackSettings
from deid.batch.bundle import Bundle
from deid.batch.project import open_pipeline
from deid.batch.run import deidentify_path
from deid.batch.settings import RunSettings
from deid.errors import DeidError
from deid.params import AttackParams
from deid.pool import one_of_many, process_pool
from deid.stage_files import read_description
from deid.storage.staging import resumable_directory, write_atomically
from deid.worlds.world import World

METRICS, SCORES, PAGES, PICTURES = "metrics.json", "scores.csv", "pages", "pictures"
ORIGINALS = f"{PICTURES}/originals"
UNSEEDED = frozenset({"mask", "blur", "pixelate"})
"""Methods that give the very same with another seed: there A4 would find everybody, and is not
tried."""

Report = Mapping[str, Any]


def attack_stages(params: AttackParams, bundle: Bundle, out: Path, jobs: int = 1) -> None:
    """Write `metrics.json`, `scores.csv` and a page a method to `out`.

    Pictures are made for it and removed. With a processor's world, `jobs` processes share the
    methods. Raises `DeidError` where a stage's output is missing.
    """
    from deid.tracking import tracked_run
    from deid.worlds import load_world

    world = load_world(bundle.world)
    settings = {
        "attack": params.model_dump(mode="json"),
        "anonymize": bundle.anonymize.model_dump(mode="json"),
        "world": world.weights_sha256,
        **world.companions,
        "stage_one": read_description(bundle.stage_one)["sha256"],
        "stage_two": read_description(bundle.stage_two)["sha256"],
    }
    on_cpu = world.device.type == "cpu"
    if on_cpu:
        one_of_many()
    shown = {key: settings[key] for key in ("attack", "anonymize", "world")}
    with resumable_directory(out, settings) as work:
        with tracked_run("attack", shown, resume=work) as run:
            reports = attacked(params, bundle, world, work, jobs if on_cpu else 1)
            figures = {method: summary(report) for method, report in reports.items()}
            write_atomically(work / METRICS, (json.dumps(figures, indent=2) + "\n").encode())
            write_atomically(work / SCORES, scores(reports).encode())
            for method, one in figures.items():
                run.metrics(0, **{f"{method}.{name}": value for name, value in one.items()})
            run.artifact(work / METRICS)
            run.artifact(work / PAGES)
        shutil.rmtree(work / PICTURES)


def attacked(
    params: AttackParams, bundle: Bundle, world: World, work: Path, jobs: int = 1
) -> dict[str, Report]:
    """The report of `deid attack` on each method, whose page is in `work`."""
    _keep_originals(world, params, work)
    if (jobs := min(jobs, len(params.methods))) == 1:
        return {name: _attacked(params, bundle, world, work, name) for name in params.methods}
    try:
        with process_pool(jobs) as pool:
            asked = {n: pool.submit(_open, params, bundle, work, n) for n in params.methods}
            return {name: process.result() for name, process in asked.items()}
    except BrokenProcessPool:
        raise DeidError(
            f"{work}: an attacking process was killed, perhaps for want of memory; run "
            "`deid attack-stages --jobs 1`"
        ) from None


def _open(params: AttackParams, bundle: Bundle, work: Path, method: str) -> Report:
    from deid.worlds import load_world

    return _attacked(params, bundle, load_world(bundle.world), work, method)


def _attacked(
    params: AttackParams, bundle: Bundle, world: World, work: Path, method: str
) -> Report:
    originals, again = work / ORIGINALS, None
    outputs = _outputs(bundle, world, method, params.seed, originals)
    if method not in UNSEEDED and "A4" in params.attackers:
        second = _outputs(bundle, world, method, params.seed + 1, originals)
        _drop_unpaired(outputs, second)
        again = str(second)
    asked = AttackSettings(
        people="folder",
        again=again,
        attackers=params.attackers,
        seed=params.seed,
        called=("held-out people", f"outputs of {method}"),
    )
    return examine(world, str(originals), str(outputs), work / PAGES / method, asked)


def summary(report: Report) -> dict[str, float]:
    """The figures of a method that say most: what the best attacker finds, and each attacker's best
    recognizer; outputs that are missing, or that nobody could search; faces found by the worst
    detector; expression, and distance to the original."""
    best, utility, attacks = report["best"], report["utility"], report["attacks"]
    # MLflow takes no plus in a name.
    found = {f"rank1_{n.replace('+', 'plus')}": _most(a, "rank1") for n, a in attacks.items()}
    who = attacks[best["rank1"]["attacker"]][best["rank1"]["recognizer"]]
    tar = max(("tar", "tar_calibrated"), key=lambda figure: best[figure]["value"])
    return {
        **{f"rank1{part}": best["rank1"][key] for part, key in _PARTS.items()},
        "rank1_chance": who["chance"]["rank1"],
        **{f"tar{part}": best[tar][key] for part, key in _PARTS.items()},
        **{name: len(report["about"][name]) for name in ("missing", "unexamined")},
        **found,
        "detected": min(one["value"] for key, one in utility.items() if key.startswith("detected")),
        "expression": utility["expression"]["value"],
        "lpips": report["quality"]["lpips"]["value"],
    }


_PARTS = {"": "value", "_low": "low", "_high": "high"}


def scores(reports: Mapping[str, Report]) -> str:
    """A row for each method, attacker and recognizer, as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    figures = ("rank1", "tar", "tar_calibrated")
    writer.writerow(("search", "method", "attacker", "recognizer", *figures))
    for method, report in reports.items():
        for attacker, found in report["attacks"].items():
            for name, one in found.items():
                shares = (one[figure]["value"] for figure in figures)
                writer.writerow((f"{method} {attacker} {name}", method, attacker, name, *shares))
    return text.getvalue()


def _most(found: Mapping[str, Any], figure: str) -> float:
    return max(float(one[figure]["value"]) for one in found.values())


def _keep_originals(world: World, params: AttackParams, work: Path) -> None:
    """Held-out people as PNG, a folder each."""
    faces = world.test_faces(params.identities, params.views, params.seed)
    for index, (picture, person) in enumerate(zip(faces.pixels, faces.identities, strict=True)):
        _, coded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        write_atomically(work / ORIGINALS / f"{person:03}" / f"{index:04}.png", coded.tobytes())


def _outputs(bundle: Bundle, world: World, method: str, seed: int, originals: Path) -> Path:
    """The folder of what `deid run` makes of the originals; one that it quarantines is missing."""
    rendered = world.domain == "rendered people"
    # One pass finds an upright face that fills its picture, and many take most of the time.
    asked = RunSettings(method=method, seed=seed, rendered=rendered, detect_size=world.resolution)
    outputs = originals.parent / f"{method}-{seed}"
    deidentify_path(originals, outputs, open_pipeline(bundle, asked, world=world))
    return outputs


def _drop_unpaired(outputs: Path, again: Path) -> None:
    """A4 needs both. An output whose original the second run quarantined counts as missing."""
    there = {path.relative_to(again) for path in again.rglob("*.png")}
    for path in outputs.rglob("*.png"):
        if path.relative_to(outputs) not in there:
            path.unlink()
