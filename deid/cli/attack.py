"""`deid attack`: the strictest examination of a folder of outputs."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from deid.attack.settings import AttackSettings
from deid.cli.options import with_options
from deid.cli.run import WorldName
from deid.errors import DeidError


@with_options(AttackSettings)
def attack(
    originals: Annotated[str, typer.Argument(help="The folder or s3:// prefix of the originals.")],
    outputs: Annotated[
        str, typer.Argument(help="That of what became of them, by deid or anything else.")
    ],
    asked: AttackSettings,
    out: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("attack"),
    world: WorldName = None,
) -> None:
    """Attack outputs with every attacker there is, and report who is found.

    Writes metrics.json, index.html and hifd/. Exit code 1 where a limit does not hold.
    """
    from deid.attack.report import text
    from deid.attack.run import PAGE, examine
    from deid.batch.project import bundle_at, find_root
    from deid.worlds import load_world

    bundle = bundle_at(find_root(), world)
    asked = replace(asked, anonymize=bundle.anonymize)
    metrics = examine(load_world(bundle.world), originals, outputs, out, asked)
    typer.echo(text(metrics))
    typer.echo(f"report: {out / PAGE}")
    if metrics["exceeded"]:
        raise DeidError(f"{outputs}: {'; '.join(metrics['exceeded'])}")
