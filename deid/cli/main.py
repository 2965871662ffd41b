"""`deid`: all commands, and how their errors end.

Heavy imports live in the commands, so that `deid --help` and errors come at once.
"""

import atexit
import errno
import gc
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from deid import __version__
from deid.cli import (
    attack,
    audit,
    export,
    flows,
    key,
    registry,
    run,
    serve,
    stages,
    study,
    weights,
)
from deid.errors import DeidError, missing_extra

app = typer.Typer(
    help="Makes faces unrecognizable and keeps pictures useful.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(run.run)
app.command()(serve.serve)
app.command()(attack.attack)
app.command()(export.export)
app.add_typer(weights.app, name="weights")
app.add_typer(audit.app, name="audit")
app.add_typer(key.app, name="key")
app.add_typer(registry.app, name="registry")
app.add_typer(flows.app, name="flows")
app.add_typer(study.app, name="study")
for stage in (stages.sample, stages.validate, stages.stage_one, stages.stage_two):
    app.command()(stage)
for stage in (stages.evaluate, stages.attack_stages, stages.report):
    app.command()(stage)
for command in (registry.register, registry.promote, registry.rollback):
    app.command()(command)


@app.command()
def doctor(
    world: Annotated[
        str | None, typer.Option(help="photo, mini or ffhq; else the one that `deid run` takes.")
    ] = None,
    commercial: Annotated[
        bool, typer.Option("--commercial", help="The variant without non-commercial files.")
    ] = False,
    params: Annotated[
        Path | None,
        typer.Option(help="The parameters file; else params.yaml here, or what is installed."),
    ] = None,
) -> None:
    """Say what this machine has, what the world needs, and what is missing."""
    from deid.cli.doctor import examine

    diagnosis = examine(world, commercial, params)
    typer.echo(diagnosis.text())
    if diagnosis.missing:
        raise typer.Exit(1)


INTERRUPTED = 130  # typer's exit code after Ctrl-C, of which it says nothing
REMEDIES = {
    errno.ENOSPC: "free space",
    errno.EDQUOT: "free space",
    errno.EFBIG: "free space",
    errno.EACCES: "fix its permissions",
    errno.EPERM: "fix its permissions",
    errno.EROFS: "choose another place",
    errno.ENOENT: "correct the path",
    errno.ENOTDIR: "correct the path",
    errno.EISDIR: "correct the path",
}


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"deid {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Tracebacks and times, to standard error.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Say the version."),
    ] = False,
) -> None:
    """Makes faces unrecognizable and keeps pictures useful."""
    if verbose:
        form = "%(relativeCreated)8d ms %(levelname)s %(name)s: %(message)s"
        logging.basicConfig(format=form)
        logging.getLogger("deid").setLevel(logging.DEBUG)


def _skip_last_search() -> None:
    """The interpreter's last search for garbage takes a second where torch is loaded. Where
    training loaded Triton it is done nevertheless: Triton would print a list of what was left."""
    if "triton" not in sys.modules:
        gc.freeze()


def main() -> None:
    """Run the command line; what a person can fix is one line on standard error."""
    # Threads that wait for each other sleep, not spin: beside other work four times as fast.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    atexit.register(_skip_last_search)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names need not suit the console
    try:
        app()
    except DeidError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        _fail(missing_extra(error, "pipeline"))
    except BrokenPipeError:  # the reader of what is printed is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        place = error.filename2 or error.filename  # of a copy, the one that could not be written
        where = f"{place}: " if place else ""
        remedy = REMEDIES.get(error.errno or 0)
        _fail(f"{where}{error.strerror or error}{f'; {remedy}' if remedy else ''}")
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            _fail("interrupted; run the same command again to resume", INTERRUPTED)
        raise


def _fail(message: str, code: int = 1) -> None:
    if logging.getLogger("deid").isEnabledFor(logging.DEBUG):
        traceback.print_exc()
    print(f"deid: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
