"""Which output was made from which original, and whom it shows."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from deid.errors import DeidError
from deid.imaging.codec import SUFFIXES, decode
from deid.pixels import Pixels
from deid.storage.locations import open_storage
from deid.storage.protocol import PRIVATE, Storage

PEOPLE = ("auto", "file", "folder", "prefix")
COLUMNS = ("original", "output", "person")
_SUFFIXES = frozenset(SUFFIXES)


@dataclass(frozen=True)
class Pair:
    """One original and what became of it; names are relative to their folders.

    `output`, and `again` of a second anonymization, are None where there is no such file.
    """

    original: str
    output: str | None
    person: str
    groups: Mapping[str, str] = field(default_factory=dict)
    again: str | None = None
    face: int = 1  # of the picture, by size

    def of_face(self, number: int) -> "Pair":
        """The pair of the picture's face of that number: nobody knows whom any but the largest one
        shows, so each is a person of its own."""
        if number == 1:
            return self
        return replace(self, person=f"{self.original}, face {number}", face=number, groups={})


@dataclass(frozen=True)
class Folders:
    """Where the pictures are: folders or s3:// prefixes."""

    originals: Storage
    outputs: Storage
    again: Storage | None = None


def open_folders(originals: str, outputs: str, again: str | None) -> Folders:
    """The storages of these addresses."""
    return Folders(
        open_storage(originals), open_storage(outputs), open_storage(again) if again else None
    )


def read_picture(storage: Storage, name: str, one_frame: bool = False) -> Pixels:
    """`uint8 [H,W,3]`, upright, of a file's first frame; `DeidError` for what is no picture, or has
    more than the `one_frame` that it may have."""
    return decode(storage.read(name), name, first_frame_only=not one_frame).pixels


def strays(outputs: Storage, pairs: Sequence[Pair]) -> list[str]:
    """Pictures among the outputs that are none of any pair."""
    return sorted(set(_pictures(outputs)) - {pair.output for pair in pairs})


def read_pairs(folders: Folders, table: Path | None, people: str) -> list[Pair]:
    """All pairs, by the original's name.

    Without a `table`, an output has its original's name, or that name with another suffix;
    `people` says who is who: every `file` another person, every `folder`, or every `prefix` of a
    file's name (`ann_2.jpg`: ann); `auto` is by folder where all originals lie in some, else by
    file. A CSV `table` has the columns original, output and person; each other one makes groups.
    """
    if people not in PEOPLE:
        raise DeidError(f"--people {people}: unknown; choose {', '.join(PEOPLE)}")
    again = _pictures(folders.again) if folders.again else []
    pairs = _read_table(table) if table else _same_names(folders, people)
    made = _matches([pair.original for pair in pairs], again)
    pairs = [replace(pair, again=made.get(pair.original)) for pair in pairs]
    if len({pair.person for pair in pairs if pair.output}) < 2:
        raise DeidError(
            "fewer than two people have an output: outputs need their originals' names, or give "
            "--pairs FILE.csv with the columns original, output, person"
        )
    return sorted(pairs, key=lambda pair: pair.original)


def _same_names(folders: Folders, people: str) -> list[Pair]:
    names = _pictures(folders.originals)
    made = _matches(names, _pictures(folders.outputs))
    if people == "auto":
        people = "folder" if names and all("/" in name for name in names) else "file"
    return [Pair(name, made.get(name), _person(name, people)) for name in names]


def _matches(originals: Sequence[str], made: Sequence[str]) -> dict[str, str]:
    """Original → what has its name; else its name with another suffix, and is no other's.
    `DeidError` where that is not one of each."""
    exact = set(originals) & set(made)
    sources, results = (_by_stem(set(names) - exact) for names in (originals, made))
    for stem in sources.keys() & results.keys():
        if len(sources[stem]) > 1 or len(results[stem]) > 1:
            names = ", ".join([*sources[stem], *results[stem]])
            raise DeidError(f"{names}: which was made from which? Give --pairs FILE.csv")
    found = {sources[stem][0]: results[stem][0] for stem in sources.keys() & results.keys()}
    return {name: name for name in exact} | found


def _person(name: str, people: str) -> str:
    path = PurePosixPath(name)
    if people == "folder":
        return str(path.parent)
    return re.split(r"[_-]", path.stem)[0] if people == "prefix" else name


def _read_table(file: Path) -> list[Pair]:
    try:
        rows = list(csv.DictReader(io.StringIO(file.read_text("utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DeidError(f"{file}: not readable as CSV ({error}); correct it") from None
    if not rows or not set(COLUMNS) <= rows[0].keys():
        raise DeidError(f"{file}: write a first line with the columns {', '.join(COLUMNS)}")
    return [_row(file, number, row) for number, row in enumerate(rows, 2)]


def _row(file: Path, number: int, row: Mapping[str | None, str | None]) -> Pair:
    original, output, person = (row[name] for name in COLUMNS)
    if not original or not person or None in row:
        raise DeidError(f"{file}, line {number}: needs an original, a person and no more columns")
    others = {str(name): value for name, value in row.items() if name not in COLUMNS}
    return Pair(original, output or None, person, {k: v for k, v in others.items() if v})


def _pictures(storage: Storage) -> list[str]:
    return [
        name
        for name in storage.list()
        if PurePosixPath(name).suffix.lower() in _SUFFIXES and not name.startswith(PRIVATE)
    ]


def _by_stem(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        found.setdefault(str(PurePosixPath(name).with_suffix("")), []).append(name)
    return found
