"""What a batch came to, as figures and as a page: counts, levels, and the faces nearest to failing.

The page is one file without a link outwards, and shows outputs only. Nothing in it says when.
"""

import base64
import io
import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Record = Mapping[str, Any]

SUMMARY, HTML = "summary.json", "summary.html"
STATUSES = ("written", "quarantined", "skipped")
WORST = 12  # faces shown
LISTED = 200  # files named as not written
THUMBNAIL = 112  # pixels, longer side
AROUND = 0.3  # of the box's side, shown on each side of it


@dataclass(frozen=True)
class WorstCase:
    """A verified face; `margin` is the greatest cosine less its threshold, below 0."""

    file: str
    face: int
    method: str
    margin: float
    judge: str
    similarity: float
    threshold: float
    output: str
    box: tuple[int, ...]


def summary_files(
    records: Sequence[Record], read_output: Callable[[str], bytes]
) -> dict[str, bytes]:
    """`summary.json` and `summary.html` of public records."""
    figures, worst = summarize(records), worst_cases(records)
    pictures = [_thumbnail(case, read_output) for case in worst]
    content = {**figures, "worst": [asdict(case) for case in worst]}
    return {
        SUMMARY: (json.dumps(content, indent=2) + "\n").encode(),
        HTML: _page(figures, list(zip(worst, pictures, strict=True))),
    }


def summarize(records: Sequence[Record]) -> dict[str, Any]:
    """Counts and shares of a batch; the same for the same records."""
    faces = [face for _, _, face in _faces(records)]
    written = [record for record in records if record.get("status") == "written"]
    missing = [record for record in records if record.get("status") == "quarantined"]
    methods = Counter(str(face.get("method")) for face in faces)
    levels = Counter(int(face.get("level", 1)) for face in faces)
    return {
        "files": {"total": len(records), **dict.fromkeys(STATUSES, 0), **_statuses(records)},
        "verdicts": _sorted(Counter(verdict(record) for record in written)),
        "faces": {
            "total": len(faces),
            "verified": sum(face.get("verdict") == "verified" for face in faces),
            "masked": sum(face.get("verdict") == "masked" for face in faces),
            "kept": sum(face.get("verdict") == "kept" for face in faces),
            "found_by_sweep": sum(face.get("found") == "sweep" for face in faces),
        },
        "methods": [_share(n, c, len(faces), "method") for n, c in methods.most_common()],
        "levels": [_share(n, levels[n], len(faces), "level") for n in sorted(levels)],
        "judges": _judges(records),
        "withheld": [
            {"file": str(record["file"]), "reason": str(record.get("reason", ""))}
            for record in missing[:LISTED]
        ],
        "provenance": {
            name: sorted({str(record[name]) for record in written if record.get(name)})
            for name in ("method", "model", "settings", "detector")
        }
        | {"origin": sorted({_origin(record) for record in written} - {""})},
    }


def verdict(record: Record) -> str:
    """Of a written file: masked where any face had to be, verified, kept where no face was to be
    changed, or no face."""
    verdicts = {face.get("verdict") for face in record.get("faces", ())}
    return next((v for v in ("masked", "verified", "kept") if v in verdicts), "no face")


def worst_cases(records: Sequence[Record]) -> list[WorstCase]:
    """The verified faces that came nearest to being recognized, nearest first."""
    cases = []
    for record, number, face in _faces(records):
        limits: Mapping[str, float] = record.get("thresholds", {})
        known = {n: v for n, v in face.get("similarities", {}).items() if v is not None}
        near = [(known[name] - limit, name) for name, limit in limits.items() if name in known]
        if face.get("verdict") != "verified" or not near:
            continue
        margin, judge = max(near)
        cases.append(
            WorstCase(
                file=str(record["file"]),
                face=number,
                method=str(face.get("method")),
                margin=round(margin, 4),
                judge=judge,
                similarity=known[judge],
                threshold=limits[judge],
                output=str(record.get("output", "")),
                box=tuple(int(value) for value in face.get("box", ())),
            )
        )
    cases.sort(key=lambda case: (-case.margin, case.file, case.face))
    return cases[:WORST]


def _faces(records: Sequence[Record]) -> Iterator[tuple[Record, int, Record]]:
    for record in records:
        if record.get("status") == "written":
            for number, face in enumerate(record.get("faces", ()), 1):
                yield record, number, face


def _statuses(records: Sequence[Record]) -> dict[str, int]:
    return _sorted(Counter(str(record.get("status")) for record in records))


def _judges(records: Sequence[Record]) -> dict[str, dict[str, float]]:
    seen: dict[str, list[float]] = {}
    limits: dict[str, float] = {}
    for record, _, face in _faces(records):
        limits |= record.get("thresholds", {})
        for name, value in face.get("similarities", {}).items():
            if value is not None:
                seen.setdefault(name, []).append(value)
    return {
        name: {
            "threshold": limits.get(name, float("inf")),
            "highest": max(values),
            "median": round(statistics.median(values), 4),
            "faces": len(values),
        }
        for name, values in sorted(seen.items())
    }


def _origin(record: Record) -> str:
    """Which model made an output: version, run and content, as far as they are known."""
    origin: Mapping[str, str] = record.get("origin") or {}
    parts = {"": "model", " version ": "version", ", run ": "run_id"}
    name = "".join(word + origin[key] for word, key in parts.items() if origin.get(key))
    content = origin.get("content_sha256")
    return f"{name}, content {content}" if content else name


def _share(value: Any, count: int, total: int, name: str) -> dict[str, Any]:
    return {name: value, "faces": count, "share": round(count / total, 4)}


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items()))


def _thumbnail(case: WorstCase, read_output: Callable[[str], bytes]) -> str:
    """A face of an output as a small JPEG in a data URI; empty where it cannot be shown."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(read_output(case.output))) as image:
            x0, y0, x1, y1 = case.box
            dx, dy = round(AROUND * (x1 - x0)), round(AROUND * (y1 - y0))
            box = (max(0, x0 - dx), max(0, y0 - dy))
            end = (min(image.width, x1 + dx), min(image.height, y1 + dy))
            face = image.convert("RGB").crop((*box, *end))
        face.thumbnail((THUMBNAIL, THUMBNAIL))
        data = io.BytesIO()
        face.save(data, format="JPEG", quality=82)
    except Exception:  # a picture that is not shown must not stop the seal
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def _page(figures: Record, worst: Sequence[tuple[WorstCase, str]]) -> bytes:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("deid.audit", "."), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("page.html").render(**figures, worst=worst, listed=LISTED)
    return page.encode(errors="replace")
