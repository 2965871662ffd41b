"""Every public weight file a world may use: where it comes from, and on which terms.

The tables are `catalog_*.toml`; `FILES` holds all their entries. Where no hash was published, the
first file seen is recorded, with a warning, and every later one held to it (`deid.weights.store`).
`trained_on` names the data behind a file, whose terms may be narrower than the file's own and are
for you to judge.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter
from rich.filesize import decimal

from deid.errors import DeidError
from deid.storage.staging import file_sha256
from deid.weights.cards import SUFFIX, read_card
from deid.weights.entry import NETWORK_ROLES, RECOGNIZERS, ROLES, Role, WeightFile

MTCNN = ("mtcnn-pnet", "mtcnn-rnet", "mtcnn-onet")
"""The three networks of one detector."""

_VARIANT = "-commercial"

Roles = Mapping[Role, tuple[str, ...]]
"""Role → the catalog's names of the files that fill it."""


@dataclass(frozen=True)
class _Table:
    """One TOML file."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    file: tuple[WeightFile, ...]
    worlds: Mapping[str, Roles]
    families: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def _read_tables() -> list[_Table]:
    adapter = TypeAdapter(_Table)
    paths = sorted(Path(__file__).parent.glob("catalog_*.toml"))
    return [adapter.validate_python(tomllib.loads(path.read_text("utf-8"))) for path in paths]


_TABLES = _read_tables()
FILES: tuple[WeightFile, ...] = tuple(file for table in _TABLES for file in table.file)
FAMILIES = {name: files for table in _TABLES for name, files in table.families.items()}
"""The files behind what `deid run --detector` and `--recognizer` call by one word."""
WORLDS = {name: roles for table in _TABLES for name, roles in table.worlds.items()}
"""What a world takes unless `world.files` says otherwise; `NAME-commercial`: what its commercial
variant takes instead."""


def find(name: str) -> WeightFile:
    """The entry called `name` (or with that file name), or what `deid weights convert` made, by its
    path; DeidError names it where there is none."""
    for entry in FILES:
        if name in (entry.name, entry.file):
            return entry
    if name.endswith(SUFFIX):
        return _converted(name)
    raise DeidError(f"{name}: no such weight file; `deid weights list` shows all names")


def _converted(name: str) -> WeightFile:
    """The terms are those of the checkpoint that it was made of, where its hash is in `FILES`."""
    card = read_card(Path(name))
    source = next((file for file in FILES if file.sha256 == card["source_sha256"]), None)
    if card["network"] not in NETWORK_ROLES:
        raise DeidError(f"{name}: its card is of no network known here; convert it again")
    role, *also = NETWORK_ROLES[card["network"]]
    return WeightFile(
        name=name,
        file=str(Path(name).absolute()),
        role=role,
        what=f"{card['network']}, converted from {card['source']}",
        license=source.license if source else f"that of {card['source']}, not in the catalog",
        license_page=source.license_page if source else "",
        commercial=source.commercial if source else False,
        trained_on=source.trained_on if source else "data not known here",
        convention=source.convention if source else "",
        by_hand="`deid weights convert` makes it",
        sha256=card["sha256"],
        also=tuple(also),
    )


def with_parts(names: Iterable[str]) -> list[WeightFile]:
    """The entries of these names, each followed by the other files of its network, none twice."""
    entries = [find(name) for name in names]
    parts = [[entry, *map(find, entry.beside)] for entry in entries]
    return list(dict.fromkeys(entry for group in parts for entry in group))


def size_text(size: int | None) -> str:
    """`174.4 MB`, or that nobody knows."""
    return "size not published" if size is None else decimal(size)


def needs(
    world: str,
    commercial_only: bool = False,
    chosen: Roles | None = None,
) -> Roles:
    """The files that `world` needs for each role.

    `chosen` replaces a role's files by others of the catalog, or by converted ones of your own
    (their paths). Under `commercial_only` a file
    that its license forbids is refused, chosen or not (`require_commercial`). The mini world needs
    nothing from outside.
    """
    if world == "mini":
        return {}
    if world not in WORLDS or world.endswith(_VARIANT):
        known = ", ".join(name for name in ("mini", *WORLDS) if not name.endswith(_VARIANT))
        raise DeidError(f"world {world!r}: unknown; the worlds are {known}")
    wanted = {**_usual(world, commercial_only), **(chosen or {})}
    if strange := sorted(set(wanted) - set(ROLES)):
        raise DeidError(f"world.files.{strange[0]}: no such role; write one of {', '.join(ROLES)}")
    for role, names in wanted.items():
        if not names and role != "ensemble":
            raise DeidError(f"world.files.{role}: empty; name a file, see `deid weights list`")
        for name in names:
            if not find(name).serves(role):
                raise DeidError(f"{name}: is no {role} but {find(name).role}; choose another file")
    named = [name for role in RECOGNIZERS for name in wanted.get(role, ())]
    if twice := {name for name in named if named.count(name) > 1}:
        raise DeidError(
            f"{min(twice)}: is named twice among world.files.identity, ensemble and held_out; what "
            "is attacked may be no judge"
        )
    if commercial_only:
        require_commercial(name for names in wanted.values() for name in names)
    return wanted


def _usual(world: str, commercial_only: bool) -> Roles:
    other = WORLDS.get(f"{world}{_VARIANT}", {}) if commercial_only else {}
    return {**WORLDS[world], **other}


def used_as(name: str) -> str:
    """Which worlds take the file of that name unless others are chosen: `ffhq`, `ffhq-commercial`,
    both, or `-`."""
    taken = (name_of for name_of, roles in _variants() if name in sum(roles.values(), ()))
    return ", ".join(taken) or "-"


def _variants() -> Iterable[tuple[str, Roles]]:
    for world in WORLDS:
        if not world.endswith(_VARIANT):
            yield world, _usual(world, False)
        else:
            yield world, _usual(world.removesuffix(_VARIANT), True)


_WITHOUT = (
    ", or do without a generator: `deid run SOURCE DESTINATION --world mini --method blur "
    "--detector yunet --recognizer foamliu`"
)


def require_commercial(names: Iterable[str]) -> None:
    """Raise DeidError naming the first file, and its license, that commercial use forbids."""
    for entry in map(find, names):
        if not entry.commercial:
            without = _WITHOUT if entry.role == "generator" else ""
            raise DeidError(
                f"{entry.name} ({entry.file}): license is {entry.license}, which the commercial "
                "variant does not allow; choose a file that `deid weights list` marks as "
                f"commercial{without}"
            )


def require_commercial_content(path: Path) -> None:
    """Raise DeidError unless `path` is, by its hash, a file that commercial use allows.

    A file that the catalog does not know is refused too: nobody here knows its license.
    """
    try:
        sha256 = file_sha256(path)
    except OSError as error:
        raise DeidError(f"{path}: not readable ({error.strerror}); correct the path") from None
    known = [entry for entry in FILES if entry.sha256 == sha256]
    if not known:
        raise DeidError(
            f"{path}: not in the catalog, so its license is unknown, and the commercial variant "
            "refuses it; take a file that `deid weights list` marks as commercial"
        )
    require_commercial([known[0].name])
