"""`deid key …`: the secret keys of pseudonyms and seeds."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Secret keys of pseudonyms and seeds.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Secret keys of pseudonyms and seeds."""


@app.command()
def new(file: Annotated[Path, typer.Argument(help="Where to write it; must not exist.")]) -> None:
    """Write a new random key, which only you may read, for `deid run --key FILE`, or another one
    for `--seed-file FILE`."""
    from deid.secret import new_key

    typer.echo(f"{file}: key {new_key(file).identity}; who has it can link, so keep it apart")


@app.command()
def show(file: Annotated[Path, typer.Argument(help="A key.")]) -> None:
    """Tell which key it is, by a fingerprint that tells nothing of it."""
    from deid.secret import read_key

    typer.echo(f"{file}: key {read_key(file).identity}")
