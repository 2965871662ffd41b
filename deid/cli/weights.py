"""`deid weights`: what public weight files there are, and how they come here."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deid.errors import DeidError

if TYPE_CHECKING:
    from deid.weights.download import Report
    from deid.weights.entry import WeightFile
    from deid.weights.store import Store

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
WorldName = Annotated[str | None, typer.Option(help="All that this world needs: ffhq or photo.")]
Commercial = Annotated[
    bool, typer.Option("--commercial", help="The variant without non-commercial files.")
]


@app.command("list")
def list_files(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Every public file this program can use, its terms, and whether it is here."""
    from deid.weights.catalog import FILES
    from deid.weights.store import default_store

    store = default_store()
    if as_json:
        rows = [dataclasses.asdict(f) | {"here": store.path(f).is_file()} for f in FILES]
        typer.echo(json.dumps(rows, indent=2))
        return
    _print_table(FILES, store)
    typer.echo(
        "worlds: those that use the file by default; (-): only if it is named in `world.files`"
    )
    typer.echo("of params.yaml, --detector or --recognizer.")
    typer.echo(f"Looked for in {store.place}; `deid weights verify` reads and checks them.")


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
    from deid.weights.store import checked, default_store

    store = default_store()
    every = not names and world is None
    entries = [f for f in FILES if store.path(f).is_file()] if every else None
    failed = 0
    for entry in _asked(names, world, commercial) if entries is None else entries:
        try:
            typer.echo(f"{entry.name}: {store.path(entry)} {checked(entry, store)}")
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
    from deid.weights.convert import convert

    typer.echo(str(convert(file, out)))


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
    from rich.console import Console
    from rich.table import Table

    from deid.weights.catalog import size_text, used_as

    table = Table(header_style="bold", show_edge=False)
    for heading in ("name", "role", "license", "commercial", "worlds", "here", "size"):
        justify: Literal["left", "right"] = "right" if heading == "size" else "left"
        table.add_column(heading, justify=justify, no_wrap=heading != "license")
    for f in files:
        here = "here" if store.path(f).is_file() else "missing"
        size = "?" if f.size is None else size_text(f.size)
        terms = (f.license, "yes" if f.commercial else "no")
        table.add_row(f.name, f.role, *terms, used_as(f.name), here, size)
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width to keep to
        console.width = 140
    console.print(table)
