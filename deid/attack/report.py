"""The page that says what was found: offline, in one file, with pictures of outputs only."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from deid.attack.attackers import Searches
from deid.attack.crops import Crops
from deid.attack.findings import AllHits, Best, worst_cases
from deid.attack.plots import PANELS, det_curves, privacy_against_utility
from deid.errors import DeidError
from deid.pixels import Pixels
from deid.storage.staging import write_atomically

WORST = 12  # pictures
COLUMNS = {
    "rank1": "rank-1",
    "rank5": "rank-5",
    "fnir": "FNIR at FPIR 1 %",
    "fnir_calibrated": "the same, calibrated on outputs",
    "tar": "TAR at FAR 0.1 %",
    "tar_calibrated": "the same, calibrated on outputs",
}
"""By figure, its heading in every table."""


@dataclass(frozen=True)
class Page:
    """What a page is made of."""

    metrics: Mapping[str, Any]
    crops: Crops
    searches: Searches
    hits: AllHits
    best: Mapping[str, Best]


def write_page(file: Path, page: Page, compare: Sequence[Path], pictures: bool) -> None:
    """Write the page; `compare` are `metrics.json` of other outputs, or folders of them."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("deid.attack", "."), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["share"] = share
    named: dict[str, Mapping[str, Any]] = {
        Path(page.metrics["about"]["outputs"]).name: page.metrics
    }
    for path in compare:
        folder = path if path.is_dir() else path.parent
        named[str(path) if folder.name in named else folder.name] = _read(folder)
    text = environment.get_template("report.html").render(
        **page.metrics,
        columns=COLUMNS,
        named=named,
        curves=_uri(det_curves(page.searches), "png"),
        trade_off=_uri(privacy_against_utility(named), "png"),
        worst=_worst(page) if pictures else [],
        who=page.best["rank1"],
    )
    write_atomically(file, text.encode())


def text(metrics: Mapping[str, Any]) -> str:
    """The figures that matter, for a terminal."""
    about, lines = metrics["about"], []
    lines.append(
        f"{about['pictures']} outputs of {about['people']} people; {len(about['missing'])} missing"
    )
    lines += [f"note: {warning}" for warning in about["warnings"]]
    if about["strays"]:
        lines.append(f"note: outputs without an original, not searched: {len(about['strays'])}")
    if one := about["taken_for_one"]:
        lines.append(
            f"note: pairs of people who are one to all recognizers: {len(one)}, the first "
            f"{' and '.join(one[0])}; --people or --pairs says who is who"
        )
    lines += _attack_lines(metrics)
    lines += [f"{attacker}  {why}" for attacker, why in metrics["not_tried"].items()]
    for figure, heading in COLUMNS.items():
        one = metrics["best"][figure]
        interval = f"{one['low']:.1%} to {one['high']:.1%}"
        who = f"{one['attacker']}, {one['recognizer']}"
        lines.append(f"A5  {heading}: {one['value']:.1%} ({interval}; {who})")
    if others := metrics["others"]:
        lines.append(
            f"faces beside each picture's largest: {others['faces']}, among {others['gallery']}; "
            f"rank-1 {others['rank1']:.1%}, TAR {others['tar']:.1%}, calibrated "
            f"{others['tar_calibrated']:.1%}, each of its best attacker (A0, A2)"
        )
    if donors := metrics["donors"]:
        lines.append(
            "donors: a guess among those for whom each could have been drawn finds "
            f"{donors['guess']:.1%}, among all {donors['chance']:.1%}; "
            f"{donors['alone']:.1%} share theirs with nobody; {donors['own']:.1%} are among those "
            "for whom theirs could have been drawn (if few: made with other options)"
        )
    for part in ("utility", "quality"):
        shown = (f"{one['heading']} {one['value']:.3g}" for one in metrics[part].values())
        lines.append(f"{part}: {'; '.join(shown)}")
    return "\n".join(lines)


def _attack_lines(metrics: Mapping[str, Any]) -> list[str]:
    """A line for each attacker and recognizer, and the headings before them."""
    width = max(len(name) for name in (*metrics["about"]["recognizers"], "all together")) + 2
    headings = ("rank-1", "rank-5", "FNIR@1%", "cal.", "TAR@0.1%", "cal.")
    lines = [f"{'':4}{'':{width}}" + "".join(f"{heading:>10}" for heading in headings)]
    for attacker, found in metrics["attacks"].items():
        for name, figures in found.items():
            shares = "".join(f"{figures[figure]['value']:>10.1%}" for figure in COLUMNS)
            lines.append(f"{attacker:4}{name:{width}}{shares}")
    return lines


def share(one: Mapping[str, Any]) -> str:
    """`1.2 (0.4–2.0)`, in percent."""
    return f"{one['value'] * 100:.1f} ({one['low'] * 100:.1f}–{one['high'] * 100:.1f})"


def _worst(page: Page) -> list[tuple[str, str]]:
    """The outputs that the best attacker finds most clearly: name and picture."""
    chosen = page.best["rank1"]
    rows = worst_cases(page.hits[chosen.attacker][chosen.recognizer], WORST)
    return [
        (str(page.crops.pairs[row].output), _uri(_jpeg(page.crops.outputs[row]), "jpeg"))
        for row in rows
    ]


def _read(folder: Path) -> Mapping[str, Any]:
    file = folder / "metrics.json"
    try:
        content: Mapping[str, Any] = json.loads(file.read_bytes())
        _ = [content[part][key] for part, key in (("best", "rank1"), *PANELS)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DeidError(f"{file}: not readable ({error}); give what `deid attack` wrote") from None
    return content


def _jpeg(pixels: Pixels) -> bytes:
    _, coded = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    return coded.tobytes()


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
