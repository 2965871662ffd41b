"""Predictions in the JSON schema 1.0 of HiFD (PyPI `hifd`), and its score under its three profiles.

    hifd run-all --methods hifd/methods.yaml --estimators hifd/estimators.yaml --data-dir hifd …

makes P, U1 and a score of these files that leaves quality out: it would take a raw NIQE for its Q.
`composite` puts Q in by the package's own formula.

Nobody's biometrics are written. HiFD asks for embeddings and landmarks but uses the cosine and the
distance of each pair only, so each pair of embeddings is given in the plane that it spans, and
landmarks as their way from the original's.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from deid.attack.attackers import Seen
from deid.attack.groups import AgeAndSex
from deid.attack.utility import Described
from deid.evaluate.metrics import cosine
from deid.storage.staging import write_atomically

SCHEMA = "1.0"


@dataclass(frozen=True)
class Predictions:
    """What one estimator says of each sample, before and after."""

    task: str
    estimator: str
    original: Sequence[dict[str, Any]]
    deid: Sequence[dict[str, Any]]
    more: dict[str, Any] = field(default_factory=dict)


def predictions(
    seen: Seen, independent: Sequence[str], before: Described, after: Described
) -> list[Predictions]:
    """All tasks of HiFD for which there is a network here; of recognizers the `independent` ones,
    if any, since HiFD takes their mean for privacy."""
    names = list(independent) or list(seen.originals)
    made = [_embeddings(name, seen) for name in names] + [_landmarks(before, after)]
    if before.person is not None and after.person is not None:
        made += _age_and_gender(before.person, after.person)
    if before.names_expressions:
        classes = [f"class {i}" for i in range(before.expression.shape[1])]
        a, b = ([{"probs": p.tolist()} for p in one.expression] for one in (before, after))
        made.append(Predictions("macro_exp", "metric", a, b, {"class_names": classes}))
    return made


def composite(made: Sequence[Predictions], lpips: float, niqe: float | None) -> dict[str, Any]:
    """HiFD's privacy `P`, quality `Q` (None without a NIQE) and utility `U1` of all samples, and of
    these the harmonic mean that each `profiles` weighs in its own way.

    HiFD leaves out what nobody measured: here U2 (gaze in three dimensions) and U3 (pulse in a
    video), and of U1 ethnicity. Its constants are meant for the usual LPIPS and NIQE.
    """
    import hifd

    means: dict[str, list[float]] = {}
    for one in made:
        pairs = zip(one.original, one.deid, strict=True)
        scores = [_agreement(one.task, before, after) for before, after in pairs]
        means.setdefault(one.task, []).append(float(np.mean(scores)))
    tasks = {task: float(np.mean(of)) for task, of in means.items()}
    privacy = tasks.pop("face_embedding")
    useful = float(np.mean(list(tasks.values())))
    good = None if niqe is None else hifd.quality_score(lpips, niqe)
    profiles = hifd.compose_profiles(P=privacy, Q=good, U1=useful, U2=None, U3=None)
    return {"P": privacy, "Q": good, "U1": useful, "profiles": profiles}


def _agreement(task: str, before: Any, after: Any) -> float:
    """HiFD's score of one sample, 0 to 1: of embeddings how unlike, of all else how alike."""
    import hifd

    if task == "face_embedding":
        return hifd.privacy_score(before["embedding"], after["embedding"])
    if task == "landmark":
        eyes = before["left_eye_center"], before["right_eye_center"]
        return hifd.score_landmark(before["points"], after["points"], *eyes)
    if task == "age":
        return hifd.score_age(before["value"], after["value"])
    return hifd.score_categorical(before["probs"], after["probs"])


def write_hifd(folder: Path, samples: Sequence[str], made: Sequence[Predictions]) -> None:
    """Write `original/` and `deid/`, a file an estimator, and the two lists of them."""
    tasks: dict[str, Any] = {}
    for one in made:
        file = f"{one.task}_{one.estimator}.json".lower().replace(" ", "_").replace(":", "_")
        for source, rows in (("original", one.original), ("deid", one.deid)):
            content = {
                "task": one.task,
                "source": source,
                "estimator": one.estimator,
                "schema_version": SCHEMA,
                **one.more,
                "predictions": dict(zip(samples, rows, strict=True)),
            }
            write_atomically(folder / source / file, json.dumps(content).encode())
        estimator = {"name": one.estimator, "orig_json": file, "deid_json": file}
        tasks.setdefault(one.task, {"estimators": []})["estimators"].append(estimator)
    methods = {
        "original": {"base_path": "original"},
        "methods": [{"name": "outputs", "base_path": "deid"}],
    }
    write_atomically(folder / "methods.yaml", yaml.safe_dump(methods).encode())
    write_atomically(folder / "estimators.yaml", yaml.safe_dump({"tasks": tasks}).encode())


def _embeddings(name: str, seen: Seen) -> Predictions:
    cosines = np.clip(cosine(seen.originals[name], seen.outputs[name]), -1.0, 1.0)
    after = [{"embedding": [c, float(np.sqrt(1 - c * c))]} for c in cosines.tolist()]
    return Predictions("face_embedding", name, [{"embedding": [1.0, 0.0]}] * len(after), after)


def _landmarks(before: Described, after: Described) -> Predictions:
    ways = after.landmarks - before.landmarks
    apart = np.linalg.norm(
        before.landmarks[:, 36:42].mean(1) - before.landmarks[:, 42:48].mean(1), axis=1
    )

    def rows(all_points: NDArray[np.float64]) -> list[dict[str, Any]]:
        return [
            {
                "points": points.tolist(),
                "left_eye_center": [0.0, 0.0],
                "right_eye_center": [float(eyes), 0.0],
            }
            for points, eyes in zip(all_points, apart, strict=True)
        ]

    return Predictions("landmark", "En_lnd", rows(np.zeros_like(ways)), rows(ways))


def _age_and_gender(before: AgeAndSex, after: AgeAndSex) -> list[Predictions]:
    ages = [[{"value": float(years)} for years in one.years] for one in (before, after)]
    sexes = [[{"probs": [1 - m, m]} for m in one.male.tolist()] for one in (before, after)]
    names = {"class_names": ["female", "male"]}
    return [
        Predictions("age", "En_id", ages[0], ages[1]),
        Predictions("gender", "En_id", sexes[0], sexes[1], names),
    ]
