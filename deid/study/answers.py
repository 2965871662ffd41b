"""What raters exported from the page, checked against the study's key."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deid.errors import DeidError


@dataclass(frozen=True)
class Key:
    """What a study showed."""

    study: str
    raters: int
    methods: Mapping[str, str]  # picture → method


Answers = Mapping[int, Mapping[str, bool]]
"""Rater (from 1) → picture → whether it was said to be altered."""


def read_key(file: Path) -> Key:
    """The key that `deid study build` wrote; `DeidError` for anything else."""
    try:
        content = json.loads(file.read_bytes())
        methods = {name: str(one["method"]) for name, one in content["pictures"].items()}
        return Key(str(content["study"]), int(content["raters"]), methods)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DeidError(
            f"{file}: not the key of a study ({error}); give the folder of `deid study build`"
        ) from None


def read_answers(files: Iterable[Path], key: Key) -> Answers:
    """The answers of one file a rater, JSON or CSV as the page exports them.

    `DeidError` for a file of another study, a picture or rater that it does not have, a rater who
    comes twice, or no file at all.
    """
    answers: dict[int, Mapping[str, bool]] = {}
    for file in files:
        study, rater, given = _read(file)
        if study != key.study:
            raise DeidError(f"{file}: answers of study {study}, not {key.study}; remove it")
        if not 1 <= rater <= key.raters:
            raise DeidError(f"{file}: rater {rater}, but there are {key.raters}; correct it")
        if rater in answers:
            raise DeidError(f"{file}: rater {rater} answered already; keep one of the two files")
        unknown = sorted(set(given) - set(key.methods))
        if unknown:
            raise DeidError(f"{file}: picture {unknown[0]} was not shown; correct the file")
        answers[rater] = given
    if not answers:
        raise DeidError("no answers; give the files that the raters exported")
    return answers


def _read(file: Path) -> tuple[str, int, Mapping[str, bool]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        return _of_csv(text) if file.suffix.lower() == ".csv" else _of_json(json.loads(text))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DeidError(f"{file}: not answers of a study ({error}); export them again") from None


def _of_json(content: Any) -> tuple[str, int, Mapping[str, bool]]:
    given = dict(content["answers"])
    if not all(isinstance(answer, bool) for answer in given.values()):
        raise ValueError("an answer is true or false")
    return str(content["study"]), int(content["rater"]), given


def _of_csv(text: str) -> tuple[str, int, Mapping[str, bool]]:
    rows = list(csv.DictReader(io.StringIO(text)))
    studies = {(row["study"], int(row["rater"])) for row in rows}
    if len(studies) != 1:
        raise ValueError(f"{len(studies)} raters in one file")
    study, rater = studies.pop()
    said = {"yes": True, "no": False}
    given = {row["picture"]: said[row["altered"]] for row in rows}
    if len(given) != len(rows):
        raise ValueError("a picture comes twice")
    return study, rater, given
