"""`deid run`: pictures in, safe pictures out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deid.batch.settings import BatchSettings, RunSettings
from deid.cli.options import with_options
from deid.errors import DeidError

if TYPE_CHECKING:
    from deid.registry.choice import Chosen


Params = Annotated[
    Path | None,
    typer.Option("--params", help="The parameters file; else the one here, or deid's own."),
]
WorldName = Annotated[
    str | None,
    typer.Option(
        help="photo, mini (rendered people) or ffhq; else the world of the parameters file."
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="What draws new faces: champion, challenger, previous or a version's number (of the "
        "registry), shipped, local (what was trained here), or a model's folder; else shipped, or "
        "local in a world of which nothing comes with deid."
    ),
]


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
    params: Params = None,
    world: WorldName = None,
    model: Model = None,
) -> None:
    """De-identify pictures: detect, align, anonymize, verify, paste back, write.

    Run the same command again after an interruption: it resumes where it was.
    """
    from deid.batch.project import run_project

    drawn_by = _model(params, world, model)
    summary = run_project(source, destination, asked, batch, drawn_by.bundle)
    if model is not None:
        typer.echo(f"model: {drawn_by.name}, content {drawn_by.content_sha256[:12]}")
    typer.echo(summary.text())
    if summary.failed:
        raise typer.Exit(1)


def _model(params: Path | None, world: str | None, model: str | None) -> "Chosen":
    from deid.batch.project import find_root, local_bundle
    from deid.params import load_params
    from deid.registry.choice import LOCAL, chosen, model_name, named

    if params is None:
        root = find_root()
        return chosen(model, model_name(root), root, world)
    for option, value in (("--world", world), ("--model", model)):
        if value is not None:
            raise DeidError(f"--params {params} {option} {value}: each names a model; give one")
    return named(local_bundle(load_params(params)), LOCAL)
