"""The command line: `deid STAGE` for the pipeline, `deid run` for pictures. Thin on purpose.

Heavy imports live in the commands, so that `deid --help` and errors come at once.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from deid.cli.audit import audit
from deid.cli.weights import app as weights
from deid.errors import DeidError, missing_extra
from deid.params import load_params

app = typer.Typer(
    help="Makes faces unrecognizable and keeps pictures useful.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(weights, name="weights")

app.add_typer(audit, name="audit")

LATENTS = Path("data/latents")
VALIDATION = Path("data/validation")
STAGE_ONE = Path("data/stage_one")
STAGE_TWO = Path("data/stage_two")
REPORTS = Path("reports")
REGISTERED = Path("data/registered.json")
INTERRUPTED = 130  # typer's exit code after Ctrl-C, of which it says nothing

ParamsFile = Annotated[Path, typer.Option("--params", help="The parameters file.")]


@app.command()
def sample(params: ParamsFile = Path("params.yaml")) -> None:
    """Draw the (image, w) pairs from the generator, into data/latents."""
    from deid.latents.sample import sample

    p = load_params(params)
    sample(p.sample, p.world, LATENTS)


@app.command()
def validate(params: ParamsFile = Path("params.yaml")) -> None:
    """Check the pairs, into data/validation; a failed expectation is an error that names it."""
    from deid.latents.validate import validate

    p = load_params(params)
    validate(p.validate_, p.world, LATENTS, VALIDATION)


@app.command()
def stage_one(params: ParamsFile = Path("params.yaml")) -> None:
    """Train the disentanglement network, equations (1)-(8), into data/stage_one."""
    from deid.latents.validate import require_valid
    from deid.training.stage_one import train_stage_one

    p = load_params(params)
    require_valid(LATENTS, VALIDATION)
    train_stage_one(p.stage_one, p.world, LATENTS, STAGE_ONE)


@app.command()
def stage_two(params: ParamsFile = Path("params.yaml")) -> None:
    """Train the adversarial mapping, equations (9)-(12), into data/stage_two."""
    from deid.training.stage_two import train_stage_two

    p = load_params(params)
    train_stage_two(p.stage_two, p.world, LATENTS, STAGE_ONE, STAGE_TWO)


@app.command()
def evaluate(params: ParamsFile = Path("params.yaml")) -> None:
    """Measure Tables 1-3, draw the figures and write the page, into reports."""
    from deid.evaluate import evaluate

    p = load_params(params)
    evaluate(p.evaluate, p.anonymize, p.world, STAGE_ONE, STAGE_TWO, REPORTS)


@app.command()
def register(params: ParamsFile = Path("params.yaml")) -> None:
    """Make the trained anonymizer a version of the registered model."""
    from deid.batch.project import local_bundle
    from deid.registry.registry import register

    p = load_params(params)
    done = register(p.register_, local_bundle(p), REPORTS / "metrics.json", REGISTERED)
    typer.echo(f"{done.model} version {done.version} is {done.alias}, validation {done.validation}")


@app.command()
def promote(params: ParamsFile = Path("params.yaml")) -> None:
    """Make the challenger champion, if every gate in params.yaml holds."""
    from deid.registry.registry import promote

    typer.echo(promote(load_params(params).register_))


@app.command()
def rollback(params: ParamsFile = Path("params.yaml")) -> None:
    """Give the alias champion back to the version that had it before."""
    from deid.registry.registry import rollback

    typer.echo(rollback(load_params(params).register_))


@app.command()
def run(
    source: Annotated[
        str, typer.Argument(help="A picture or a folder of pictures, or s3://BUCKET/PREFIX.")
    ],
    destination: Annotated[
        str, typer.Argument(help="The folder or s3://BUCKET/PREFIX, or for one picture the file.")
    ],
    method: Annotated[
        str, typer.Option(help="swap, adversarial, fgsm, pgd, blur, pixelate or mask.")
    ] = "swap",
    detector: Annotated[
        list[str] | None,
        typer.Option(
            help="yunet, scrfd or mtcnn (see `deid weights fetch`), or with a path: yunet=FILE, "
            "scrfd=FILE, mtcnn=FOLDER; needed for photographs. Given several times: a face that "
            "any of them finds counts."
        ),
    ] = None,
    detect_size: Annotated[
        int | None,
        typer.Option(help="Look once, the longer side so many pixels: faster, misses more."),
    ] = None,
    recognizer: Annotated[
        list[str] | None,
        typer.Option(
            help="Who verifies: foamliu or arcface, or with a path: foamliu=FILE; needed for "
            "photographs. Given several times: none may know a face."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed gives other faces.")] = 0,
    allow_no_face: Annotated[
        bool, typer.Option(help="Write pictures without a face, re-encoded without metadata.")
    ] = False,
    rendered: Annotated[
        bool, typer.Option(help="The pictures show rendered people, as the mini world draws them.")
    ] = False,
    keep_metadata: Annotated[
        list[str] | None,
        typer.Option(help="icc, exif, exif:TAG, xmp:PREFIX:NAME, iptc:NAME; else all of it goes."),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(help="Picture or folder of people who stay as they are, a face a picture."),
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="The same, of the only people who are changed.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only draw boxes, into originals: DST/….preview.png."),
    ] = False,
    jobs: Annotated[int, typer.Option(help="Processes; each holds the networks.")] = 1,
    timeout: Annotated[
        float, typer.Option(help="Seconds after which a file is given up and quarantined.")
    ] = 300.0,
    time_limit: Annotated[
        float | None,
        typer.Option(
            help="Seconds for one picture, after which its faces are masked; after twice as long "
            "it is given up. What is written then depends on the machine's speed."
        ),
    ] = None,
    audit: Annotated[
        str | None, typer.Option(help="Where the records go, if not to the destination.")
    ] = None,
    encryption: Annotated[
        str | None,
        typer.Option(help="What S3 encrypts new objects with: AES256, aws:kms or aws:kms:KEY-ID."),
    ] = None,
    params: Annotated[
        Path | None,
        typer.Option("--params", help="The parameters file; else the one here, or deid's own."),
    ] = None,
) -> None:
    """De-identify pictures: detect, align, anonymize, verify, paste back, write.

    Run the same command again after an interruption: it goes on where it was.
    """
    from functools import partial

    from deid.batch.batch import locate, run_batch
    from deid.batch.project import bundle_at, find_root, local_bundle, open_workshop
    from deid.batch.run import RunSettings
    from deid.batch.workers import Pool

    asked = RunSettings(
        method=method,
        detectors=tuple(detector or ()),
        detect_size=detect_size,
        recognizers=tuple(recognizer or ()),
        seed=seed,
        allow_no_face=allow_no_face,
        rendered=rendered,
        keep_metadata=tuple(keep_metadata or ()),
        keep=keep,
        only=only,
        seconds=time_limit,
        dry_run=dry_run,
    )
    bundle = local_bundle(load_params(params)) if params else bundle_at(find_root())
    open_ = partial(open_workshop, bundle, asked)
    places = locate(source, destination, audit, encryption)
    summary = run_batch(places, lambda places: Pool(open_, places, jobs, timeout))
    typer.echo(summary.text())
    if summary.failed:
        raise typer.Exit(1)


@app.command()
def doctor(
    world: Annotated[str | None, typer.Option(help="mini or ffhq; else the one in params.")] = None,
    commercial: Annotated[
        bool, typer.Option("--commercial", help="The variant without non-commercial files.")
    ] = False,
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """Say what this machine has, what the world needs, and what is missing."""
    from deid.cli.doctor import examine

    diagnosis = examine(world, commercial, params)
    typer.echo(diagnosis.text())
    if diagnosis.missing:
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; what a person can mend is one line on standard error."""
    # A training started by hand must not pick up more threads than the machine has cores.
    os.environ.setdefault("KMP_BLOCKTIME", "1")
    try:
        app()
    except DeidError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        _fail(missing_extra(error, "pipeline"))
    except OSError as error:
        place = error.filename2 or error.filename  # of a copy, the one that could not be written
        where = f"{place}: " if place else ""
        _fail(f"{where}{error.strerror or error}; free space, mend permissions or the path")
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            _fail("interrupted; run the same command again to go on", INTERRUPTED)
        raise


def _fail(message: str, code: int = 1) -> None:
    print(f"deid: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
