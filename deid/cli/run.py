"""`deid run`: pictures in, safe pictures out."""

from pathlib import Path
from typing import Annotated

import typer

from deid.batch.settings import BatchSettings, RunSettings
from deid.cli.options import with_options


@with_options(RunSettings, BatchSettings)
def run(
    source: Annotated[
        str, typer.Argument(help="A picture or a folder of pictures, or s3://BUCKET/PREFIX.")
    ],
    destination: Annotated[
        str, typer.Argument(help="The folder or s3://BUCKET/PREFIX, or for one picture the file.")
    ],
    asked: RunSettings,
    batch: BatchSettings,
    params: Annotated[
        Path | None,
        typer.Option("--params", help="The parameters file; else the one here, or deid's own."),
    ] = None,
    world: Annotated[
        str | None,
        typer.Option(
            "--world",
            help="photo, mini (rendered people) or ffhq, with the stages trained here or those "
            "that come with deid; else the world of the parameters file.",
        ),
    ] = None,
) -> None:
    """De-identify pictures: detect, align, anonymize, verify, paste back, write.

    Run the same command again after an interruption: it resumes where it was.
    """
    from deid.batch.project import run_project

    summary = run_project(source, destination, asked, batch, params, world)
    typer.echo(summary.text())
    if summary.failed:
        raise typer.Exit(1)
