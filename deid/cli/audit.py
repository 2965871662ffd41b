"""`deid audit …`: whether a batch is what it was when it was sealed."""

from typing import Annotated

import typer

from deid.errors import DeidError

app = typer.Typer(help="Check the records of a batch.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Check the records of a batch."""


@app.command()
def verify(
    batch: Annotated[str, typer.Argument(help="The folder or s3:// prefix of a batch.")],
    outputs: Annotated[
        str | None, typer.Option(help="Where its outputs are, if not beside the records.")
    ] = None,
) -> None:
    """Find any change of a record, their order, a summary or an output since the batch ended.

    The key of a signed batch comes from DEID_AUDIT_KEY or DEID_AUDIT_KEY_FILE.
    """
    from deid.audit.keys import key_from_environment
    from deid.audit.seal import SEAL, is_audit_file, is_signed, verify
    from deid.storage.locations import open_storage
    from deid.storage.protocol import PRIVATE

    records = open_storage(batch)
    names = {name for name in records.list() if not name.startswith(PRIVATE)}
    if SEAL not in names:
        raise DeidError(f"{batch}: no {SEAL}; give a batch's folder, or run the batch to its end")
    pictures = open_storage(outputs) if outputs else records

    def read(name: str) -> bytes:
        return (records if is_audit_file(name) else pictures).read(name)

    if outputs:
        names = {n for n in names if is_audit_file(n)} | set(pictures.list())
    problems = verify(read, names, key_from_environment())
    for problem in problems:
        typer.echo(problem)
    if problems:
        plural = "" if len(problems) == 1 else "s"
        raise DeidError(f"{batch}: {len(problems)} problem{plural}; do not trust it as it is")
    if is_signed(records.read(SEAL)):
        typer.echo(f"{batch}: unchanged since it was signed")
    else:
        typer.echo(
            f"{batch}: unchanged, but not signed: whoever changed it could have sealed it anew; "
            "set DEID_AUDIT_KEY_FILE when running a batch"
        )
