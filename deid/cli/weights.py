"""`deid weights`: what public weight files there are, and how they come here."""

import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deid.errors import DeidError, printable

if TYPE_CHECKING:
    from deid.weights.download import Report
    from deid.weights.entry import WeightFile
    from deid.weights.store import Store

WIDTH = 100  # columns of the list where no terminal is wider
STATES = ("verified", "no hash", "differs", "missing")
FIRST_USE = ": whatever arrives is recorded, and every later file held to it"

app = typer.Typer(
    help="Public weight files: list them, fetch them, verify them, convert them to safetensors.",
    no_args_is_help=True,
)

Names = Annotated[
    list[str] | None,
    typer.Argument(
        help="As `deid weights list` has them, or yunet, scrfd, mtcnn, foamliu, arcface."
    ),
]
WorldName = Annotated[str | None, typer.Option(help="All that this world needs: photo or ffhq.")]
Commercial = Annotated[
    bool, typer.Option("--commercial", help="The variant without non-commercial files.")
]


@app.command("list")
def list_files(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Every public file this program can use, its terms, and whether it is here and right."""
    from deid.weights.catalog import FILES, used_as
    from deid.weights.store import default_store, state

    store = default_store()
    if as_json:
        states = {f.name: state(f, store) for f in FILES}
        rows = [
            dataclasses.asdict(f)
            | {"worlds": used_as(f.name), "state": states[f.name]}
            | {"here": states[f.name] != "missing"}
            for f in FILES
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    _print_table(FILES, store)
    typer.echo(
        "\nno hash: none was published. --json and `deid weights fetch` show whole licenses."
    )
    typer.echo(f"Looked for in {store.place}")


@app.command()
def fetch(
    names: Names = None,
    world: WorldName = None,
    commercial: Commercial = False,
    accept_license: Annotated[
        bool,
        typer.Option(
            "--accept-license",
            "--accept-licence",
            help="You have read and accept the licenses shown.",
        ),
    ] = False,
) -> None:
    """Download files, resume what was begun, and check them."""
    from deid.weights.fetch import shared_archives
    from deid.weights.store import default_store

    store, failed = default_store(), 0
    wanted = _asked(names, world, commercial)
    if not wanted:
        typer.echo(f"the world {world} needs no public files; nothing is to be fetched")
        return
    with shared_archives(store) as archives:
        for entry in wanted:
            try:
                _fetch_one(entry, store, accept_license, archives)
            except DeidError as error:
                failed += 1
                typer.echo(f"deid: {error}", err=True)
    if failed:
        raise typer.Exit(1)


@app.command()
def verify(names: Names = None, world: WorldName = None, commercial: Commercial = False) -> None:
    """Read files and check them against the published or the recorded hash."""
    from deid.weights.catalog import FILES
    from deid.weights.importers import read_checkpoint
    from deid.weights.store import checked, default_store

    store = default_store()
    every = not names and world is None
    entries = [f for f in FILES if store.path(f).is_file()] if every else None
    failed = 0
    for entry in _asked(names, world, commercial) if entries is None else entries:
        try:
            found = checked(entry, store)
            if entry.sha256 is None:  # no hash tells it from garbage
                read_checkpoint(store.path(entry))
            typer.echo(f"{entry.name}: {store.path(entry)} {found}")
        except DeidError as error:
            failed += 1
            typer.echo(f"deid: {error}", err=True)
    if entries == []:
        typer.echo(f"no weight file in {store.place}")
    if failed:
        raise typer.Exit(1)


@app.command()
def lock(
    out: Annotated[Path, typer.Argument(help="The JSON file to write.")],
    params: Annotated[Path, typer.Option(help="The parameters file.")] = Path("params.yaml"),
) -> None:
    """Verify the files of the world in params and write down their hashes, for DVC to watch."""
    from deid.params import load_params
    from deid.weights.lock import write_lock

    write_lock(load_params(params).world, out)


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="A public checkpoint, in any format known here.")],
    out: Annotated[Path | None, typer.Option(help="The safetensors file to write.")] = None,
) -> None:
    """Read a checkpoint without running anything in it, and write it as safetensors."""
    from deid.weights.cards import read_card
    from deid.weights.catalog import find
    from deid.weights.convert import convert

    path = convert(file, out)
    entry, card = find(str(path)), read_card(path)
    use = f"to use it, write under world.files in params.yaml: {entry.role}: {path}"
    for line in (*card["notes"], f"license: {entry.license}", use):
        typer.echo(printable(f"{card['network']}: {line}"))


def _asked(names: list[str] | None, world: str | None, commercial: bool) -> "list[WeightFile]":
    from deid.weights.catalog import FAMILIES, needs, require_commercial, with_parts

    wanted = [file for name in names or [] for file in FAMILIES.get(name, (name,))]
    if world is not None:
        wanted += [name for group in needs(world, commercial).values() for name in group]
    elif not wanted:
        raise DeidError("no file named; give names of `deid weights list`, or --world ffhq")
    entries = with_parts(wanted)
    if commercial:
        require_commercial(entry.name for entry in entries)
    return entries


def _fetch_one(
    entry: "WeightFile", store: "Store", accept_license: bool, archives: Path | None
) -> None:
    from deid.weights.catalog import size_text
    from deid.weights.fetch import fetch, must_accept

    if not store.path(entry).exists():
        typer.echo(f"{entry.name}: {entry.what}, {size_text(entry.download_size)}")
        typer.echo(f"  license: {entry.license} ({entry.license_page})")
        typer.echo(f"  trained on {entry.trained_on}")
        typer.echo(f"  {entry.hash_text}{'' if entry.sha256 else FIRST_USE}")
    accepted = "--accept-license" if accept_license else None
    if must_accept(entry) and not accepted and _can_ask(entry, store):
        if not typer.confirm("  Do you accept this license?", err=True):
            raise DeidError(f"{entry.name}: license not accepted, so nothing is downloaded")
        accepted = "at the prompt"
    with _progress(entry) as report:
        path = fetch(entry, store, accepted, report, archives=archives)
    typer.echo(f"{entry.name}: {path}")


def _can_ask(entry: "WeightFile", store: "Store") -> bool:
    would_download = entry.sources and not store.offline and not store.path(entry).exists()
    return bool(would_download) and sys.stdin.isatty()


@contextmanager
def _progress(entry: "WeightFile") -> "Iterator[Report]":
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    from deid.progress import console

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=4, transient=True) as shown:
        task = shown.add_task(entry.name, total=entry.download_size, visible=False)
        yield lambda done, total: shown.update(
            task, completed=done, total=total or entry.download_size, visible=True
        )


def _print_table(files: "tuple[WeightFile, ...]", store: "Store") -> None:
    """A row for each network, of which some have several files."""
    from deid.weights.catalog import used_as, with_parts

    parts = {part for file in files for part in file.beside}
    heads = [file for file in files if file.name not in parts]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH
    name = max(len(file.name) for file in heads)
    line = f"{{:{name}}}  {{:11}}  {{:8}}  {{:>8}}  {{:10}}  {{}}"
    typer.echo(line.format("name", "role", "state", "size", "commercial", "license"))
    for worlds in dict.fromkeys(used_as(file.name) for file in heads):
        by = "no world, unless it is named" if worlds == "-" else worlds
        typer.echo(f"taken by {by}:")
        for file in (file for file in heads if used_as(file.name) == worlds):
            row = line.format(file.name, file.role, *_cells(with_parts([file.name]), store))
            typer.echo(row if len(row) <= max(width, WIDTH) else f"{row[: max(width, WIDTH) - 1]}…")


def _cells(files: "list[WeightFile]", store: "Store") -> tuple[str, ...]:
    """State, size, whether commercial use is allowed, and license, of a network's files."""
    from deid.weights.catalog import size_text
    from deid.weights.store import state

    worst = max((state(file, store) for file in files), key=STATES.index)
    sizes = [file.size for file in files if file.size is not None]
    size = size_text(sum(sizes)) if len(sizes) == len(files) else "?"
    license_name = re.split(" ?[:;(]", files[0].license)[0]
    return worst, size, "yes" if files[0].commercial else "no", license_name
