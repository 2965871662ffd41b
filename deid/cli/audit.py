"""`deid audit …`: whether a batch is what it was when it was sealed."""

from typing import TYPE_CHECKING, Annotated

import typer

from deid.errors import DeidError

if TYPE_CHECKING:
    from deid.storage.protocol import Storage

app = typer.Typer(help="Check the records of a batch.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Check the records of a batch."""


@app.command()
def verify(
    batch: Annotated[
        str, typer.Argument(help="The folder or s3:// prefix of a batch, or a picture made alone.")
    ],
    outputs: Annotated[
        str | None, typer.Option(help="Where its outputs are, if not beside the records.")
    ] = None,
) -> None:
    """Find any change of a record, their order, a summary or an output since the batch ended.

    The key of a signed batch comes from DEID_AUDIT_KEY or DEID_AUDIT_KEY_FILE.
    """
    from deid.audit.keys import key_from_environment
    from deid.audit.seal import SEAL, is_audit_file, is_signed, verify
    from deid.batch.journal import is_unfinished

    records, pictures, names = _batch(batch, outputs)
    if is_unfinished(records):
        raise DeidError(f"{batch}: unfinished; run the same command again, then verify")
    if SEAL not in names:
        raise DeidError(f"{batch}: no {SEAL}; give a batch's folder, or run the batch to its end")

    def read(name: str) -> bytes:
        return (records if is_audit_file(name) else pictures).read(name)

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


def _batch(batch: str, outputs: str | None) -> "tuple[Storage, Storage, set[str]]":
    """Storages of records and of outputs, and the names in them that are of the batch or might be.

    A picture made alone lies among other files, of which its records say nothing.
    """
    from deid.audit.seal import is_audit_file
    from deid.batch.plan import records_of
    from deid.storage.locations import open_storage
    from deid.storage.protocol import PRIVATE

    folder, _, name = batch.rpartition("/")
    alone = open_storage(records_of(folder or ".", name)) if name else None
    if alone is not None and alone.list():
        pictures = open_storage(folder or ".")
        own = {name} if pictures.version(name) is not None else set()
        return alone, pictures, own | set(filter(is_audit_file, alone.list()))
    records = open_storage(batch)
    pictures = open_storage(outputs) if outputs else records
    names = {n for n in records.list() if not n.startswith(PRIVATE)}
    if outputs:
        names = {n for n in names if is_audit_file(n)}
        names |= {n for n in pictures.list() if not n.startswith(PRIVATE)}
    return records, pictures, names
