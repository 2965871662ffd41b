"""`deid study …`: what people see of a method, as the paper asked them."""

from pathlib import Path
from typing import Annotated

import typer

from deid.cli.stages import SCORES

app = typer.Typer(help="Ask people which pictures were altered.", no_args_is_help=True)
Folder = Annotated[Path, typer.Option("--study", help="The folder of the study.")]


@app.callback()
def _group() -> None:
    """Ask people which pictures were altered."""


@app.command()
def build(
    source: Annotated[
        Path, typer.Argument(help="A folder with a folder of pictures a method, and `original`.")
    ],
    out: Folder = SCORES.parent,
    pictures: Annotated[int, typer.Option(min=1, help="How many are shown, in all.")] = 100,
    raters: Annotated[int, typer.Option(min=1, help="How many people rate.")] = 12,
    seed: Annotated[int, typer.Option(help="Another seed takes others, in other orders.")] = 0,
    side: Annotated[int, typer.Option(min=64, help="Longest side of a picture, pixels.")] = 512,
) -> None:
    """Make the raters' page and its key.

    Give raters index.html only: it works offline, from a file. key.json says what each picture is.
    """
    from deid.study.build import KEY, PAGE, Plan
    from deid.study.build import build as make

    shown = make(source, out, Plan(pictures, raters, seed, side))
    methods = sorted({one.method for one in shown})
    typer.echo(f"{len(shown)} pictures of {', '.join(methods)}")
    typer.echo(f"{out / PAGE}: for {raters} raters, each with a number; keep {out / KEY} from them")


@app.command()
def score(
    answers: Annotated[list[Path], typer.Argument(help="The files that raters exported.")],
    study: Folder = SCORES.parent,
) -> None:
    """Say how often each method's pictures were called altered.

    Writes scores.json into the study's folder, where `deid report` finds it for Table 1.
    """
    from deid.study.answers import read_answers, read_key
    from deid.study.build import KEY
    from deid.study.scores import score as score_answers
    from deid.study.scores import text, write_scores

    key = read_key(study / KEY)
    scores = score_answers(read_answers(answers, key), key)
    write_scores(scores, study / SCORES.name)
    typer.echo(text(scores))
