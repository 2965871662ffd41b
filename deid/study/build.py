"""A study from folders of pictures: which are shown, in which order, and the page that shows them.

The paper's protocol: 100 pictures drawn with equal probability from originals and three methods,
shown to 12 people, who say whether there was any de-identification. Here every method has the same
share, the same 100 are shown to all, and everybody has an order of their own.
"""

import base64
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from deid.errors import DeidError
from deid.imaging.codec import decode
from deid.imaging.formats import SUFFIXES
from deid.seeds import numpy_generator
from deid.storage.staging import fingerprint, write_atomically

ORIGINAL = "original"
PAGE, KEY = "index.html", "key.json"


@dataclass(frozen=True)
class Plan:
    """How a study is made."""

    pictures: int = 100
    raters: int = 12
    seed: int = 0
    side: int = 512  # longest, in pixels; larger pictures are made smaller, all alike


@dataclass(frozen=True)
class Shown:
    """A picture of a study; nothing of `name` tells the method."""

    name: str
    method: str
    file: Path


def build(source: Path, out: Path, plan: Plan) -> list[Shown]:
    """Write `out/index.html` for the raters and `out/key.json`, which says what each picture is.

    `source` has a folder of pictures for each method, one of them `original`. `DeidError` where
    there are too few, or where `out` has a study: its answers would lose their key.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    if (out / KEY).exists():
        raise DeidError(f"{out}: holds a study already; choose another folder")
    shown = choose(_methods(source), plan)
    pictures = {one.name: _uri(one.file, plan.side) for one in shown}
    study = fingerprint([sorted(pictures.items()), plan.raters, plan.seed])[:12]
    orders = [order([one.name for one in shown], rater, plan.seed) for rater in range(plan.raters)]
    environment = Environment(
        loader=PackageLoader("deid.study", "."), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("page.html").render(
        study={"id": study, "pictures": pictures, "orders": orders}, raters=plan.raters
    )
    key = {
        "study": study,
        "seed": plan.seed,
        "raters": plan.raters,
        "pictures": {
            one.name: {"method": one.method, "file": one.file.relative_to(source).as_posix()}
            for one in shown
        },
    }
    write_atomically(out / KEY, json.dumps(key, indent=2).encode() + b"\n")
    write_atomically(out / PAGE, page.encode())
    return shown


def choose(methods: Mapping[str, Sequence[Path]], plan: Plan) -> list[Shown]:
    """The pictures, the same number for each method (the rest goes to methods drawn by the seed).

    Of the pictures that were made of one original (files of one name), as few as can be.
    """
    random = numpy_generator("study", 0, plan.seed)
    names = [sorted(methods)[i] for i in random.permutation(len(methods))]
    share, rest = divmod(plan.pictures, len(names))
    wanted = {name: share + (place < rest) for place, name in enumerate(names)}
    for name, count in wanted.items():
        if len(methods[name]) < count:
            raise DeidError(
                f"{name}: {len(methods[name])} pictures, {count} are needed; add some, or give "
                f"fewer --pictures"
            )
    used: Counter[str] = Counter()
    chosen: list[tuple[str, Path]] = []
    for name in names:
        left = [methods[name][i] for i in random.permutation(len(methods[name]))]
        for _ in range(wanted[name]):
            file = min(left, key=lambda file: used[file.stem])
            left.remove(file)
            used[file.stem] += 1
            chosen.append((name, file))
    mixed = [chosen[i] for i in random.permutation(len(chosen))]
    return [Shown(f"p{number:03d}", *one) for number, one in enumerate(mixed, 1)]


def order(names: Sequence[str], rater: int, seed: int) -> list[str]:
    """In which order a rater (from 0) sees the pictures."""
    return [names[i] for i in numpy_generator("study order", rater, seed).permutation(len(names))]


def _methods(source: Path) -> dict[str, list[Path]]:
    if not source.is_dir():
        raise DeidError(f"{source}: no such folder; give one with a folder of pictures a method")
    methods = {
        folder.name: sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
        for folder in sorted(source.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
    }
    if ORIGINAL not in methods or len(methods) < 2:
        raise DeidError(
            f"{source}: needs a folder `{ORIGINAL}` and one for each method, of pictures"
        )
    return methods


def _uri(file: Path, side: int) -> str:
    """A picture, upright, as a data URI. All are encoded alike and without loss: neither a format
    nor its traces may tell an original."""
    image = Image.fromarray(decode(file.read_bytes(), str(file), first_frame_only=True).pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True, quality=60)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
