"""Whether pictures come that the champion was not known by: what recent batches record of their
faces, against what the first batches of that champion recorded.

The reference is a tag of the registered version, so that every machine sees the same one. It is set
when that champion has made so many pictures; later ones are held against it by Great Expectations.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deid.batch.manifest import Records
from deid.errors import DeidError
from deid.registry.versions import CHAMPION, aliases_of
from deid.storage.locations import open_storage
from deid.tracking import mlflow_client, store_errors

if TYPE_CHECKING:
    import pandas as pd

    from deid.latents.expectations import Check

LEAST = 100  # pictures, both for a reference and for a judgement
RECENT = 1000  # pictures that are looked at, the newest
ERRORS = 4.0  # standard errors of both means within which nothing is said to have changed
FIGURES = {
    # What it is: the least change of its mean that matters.
    "faces": (0.5, "faces in a picture"),
    "fallback": (0.05, "share of a picture's faces that needed another than the first method"),
    "masked": (0.02, "share of a picture's faces that ended as an opaque mask"),
    "similarity": (0.05, "highest similarity that any judge found in a picture"),
}
REFERENCE = "drift_reference"
"""The tag: JSON, of each figure its mean and deviation, and how many pictures they are of."""


@dataclass(frozen=True)
class Drift:
    """What the check came to; `changed` says, a line each, what is not as it was."""

    pictures: int
    changed: tuple[str, ...] = ()
    note: str = ""  # why nothing could be judged


@store_errors()
def look(model: str, places: Sequence[str], docs: Path) -> Drift:
    """Hold the newest pictures that the champion of `model` made, by the records at `places`
    (folders or `s3://`), against its reference; pages of Great Expectations go to `docs`."""
    client = mlflow_client()
    version = aliases_of(client, model).get(CHAMPION)
    if version is None:
        return Drift(0, note=f"{model} has no champion; nothing to compare with")
    rows = pictures(places, model, version)
    if len(rows) < LEAST:
        return Drift(len(rows), note=f"version {version} made {len(rows)} pictures of {LEAST}")
    frame = _frame(rows)
    tag = client.get_model_version(model, version).tags.get(REFERENCE)
    if tag is None:
        spread = {n: [float(frame[n].mean()), float(frame[n].std())] for n in FIGURES}
        text = json.dumps({"pictures": len(rows), "figures": spread})
        client.set_model_version_tag(model, version, REFERENCE, text)
        return Drift(len(rows), note=f"these are the reference of version {version} from now on")
    from deid.latents.expectations import check_tables

    outcomes = check_tables({"pictures": (frame, checks(*_reference(tag), len(rows)))}, docs)
    return Drift(len(rows), tuple(str(outcome) for outcome in outcomes if not outcome.success))


def pictures(places: Iterable[str], model: str, version: str) -> list[dict[str, float]]:
    """Figures of the newest pictures with faces that this version made, a row each."""
    lines = [
        line
        for place in places
        for line in Records(open_storage(place)).all()
        if line["status"] == "written" and line["faces"]
        if (line.get("origin") or {}).get("version") == version
        if line["origin"].get("model") == model
    ]
    newest = sorted(lines, key=lambda line: str(line["time"]), reverse=True)[:RECENT]
    return [_figures(line["faces"]) for line in newest]


def _figures(faces: Sequence[dict[str, Any]]) -> dict[str, float]:
    judged = [max(face["similarities"].values()) for face in faces if face["similarities"]]
    return {
        "faces": len(faces),
        "fallback": sum(face["level"] > 1 for face in faces) / len(faces),
        "masked": sum(face["verdict"] == "masked" for face in faces) / len(faces),
        "similarity": max(judged, default=0.0),
    }


def checks(reference: dict[str, list[float]], of: int, pictures: int) -> list["Check"]:
    """What each figure's mean over so many `pictures` must be between, after a reference `of` so
    many, and that each is known."""
    from deid.latents.expectations import Check

    made = []
    for name, (least, meaning) in FIGURES.items():
        mean, deviation = reference[name]
        near = max(least, ERRORS * deviation * (1 / of + 1 / pictures) ** 0.5)
        bounds = {"min_value": mean - near, "max_value": mean + near}
        made.append(
            Check(f"{meaning}: as before", "ExpectColumnMeanToBeBetween", {"column": name} | bounds)
        )
        made.append(Check(f"{meaning}: known", "ExpectColumnValuesToNotBeNull", {"column": name}))
    return made


def _reference(tag: str) -> tuple[dict[str, list[float]], int]:
    """Mean and deviation of each figure, and of how many pictures."""
    try:
        content = json.loads(tag)
        figures, pictures = content["figures"], int(content["pictures"])
        return {name: [float(value) for value in figures[name]] for name in FIGURES}, pictures
    except (ValueError, KeyError, TypeError) as error:
        raise DeidError(
            f"tag {REFERENCE}: damaged ({error}); delete it, and it is made anew"
        ) from None


def _frame(rows: Sequence[dict[str, float]]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(rows)
