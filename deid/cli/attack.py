"""`deid attack`: the strictest examination of a folder of outputs."""

from pathlib import Path
from typing import Annotated

import typer


def attack(  # long: an option a line
    originals: Annotated[str, typer.Argument(help="The folder or s3:// prefix of the originals.")],
    outputs: Annotated[
        str, typer.Argument(help="That of what became of them, by deid or anything else.")
    ],
    out: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("attack"),
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="A CSV with the columns original, output, person; each other column makes groups. "
            "Else an output has its original's name, or that with another suffix."
        ),
    ] = None,
    people: Annotated[
        str,
        typer.Option(
            help="Who is who, without a CSV: each file is another person, or each folder, or each "
            "prefix of a file's name up to _ or -; auto: folder if all are in folders, else file."
        ),
    ] = "auto",
    again: Annotated[
        str | None,
        typer.Option(help="The originals anonymized by the same method with another seed or key."),
    ] = None,
    recognizer: Annotated[
        list[str] | None,
        typer.Option(help="A further attacker: foamliu or arcface, or with a path: foamliu=FILE."),
    ] = None,
    detector: Annotated[
        list[str] | None,
        typer.Option(help="yunet, scrfd or mtcnn, or with a path: yunet=FILE; else what is here."),
    ] = None,
    detect_size: Annotated[int, typer.Option(help="Longer side at which faces are found.")] = 640,
    compare: Annotated[
        list[Path] | None,
        typer.Option(help="A report of other outputs, to stand in the same plot."),
    ] = None,
    pictures: Annotated[
        bool, typer.Option(help="Show the outputs that are found most clearly.")
    ] = True,
    max_rank1: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Fail above this rank-1 of the best attacker."),
    ] = None,
    max_tar: Annotated[
        float | None, typer.Option(min=0, max=1, help="The same of TAR at a FAR of 0.1 %.")
    ] = None,
    min_detected: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Fail where a detector finds a smaller share of faces."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draws behind the intervals.")] = 0,
    world: Annotated[
        str | None,
        typer.Option(help="photo, mini (rendered people) or ffhq, whose networks attack."),
    ] = None,
) -> None:
    """Attack outputs with every attacker there is, and report who is found.

    Writes metrics.json, index.html and hifd/. Exit code 1 where a limit does not hold.
    """
    from deid.attack.report import text
    from deid.attack.run import AttackSettings, Limits, examine
    from deid.batch.project import bundle_at, find_root
    from deid.errors import DeidError
    from deid.worlds import load_world

    settings = AttackSettings(
        originals=originals,
        outputs=outputs,
        out=out,
        table=pairs,
        people=people,
        again=again,
        recognizers=tuple(recognizer or ()),
        detectors=tuple(detector or ()),
        detect_size=detect_size,
        seed=seed,
        compare=tuple(compare or ()),
        pictures=pictures,
        limits=Limits(max_rank1, max_tar, min_detected),
    )
    metrics = examine(load_world(bundle_at(find_root(), world).world), settings)
    typer.echo(text(metrics))
    typer.echo(f"report: {out / 'index.html'}")
    if metrics["exceeded"]:
        raise DeidError(f"{outputs}: {'; '.join(metrics['exceeded'])}")
