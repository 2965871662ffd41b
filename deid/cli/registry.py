"""Versions of the registered model: register, promote, roll back."""

from pathlib import Path

import typer

from deid.cli.stages import PARAMS, REPORTS, ParamsFile

REGISTERED = Path("data/registered.json")


def register(params: ParamsFile = PARAMS) -> None:
    """Make the trained anonymizer a version of the registered model."""
    from deid.batch.project import local_bundle
    from deid.params import load_params
    from deid.registry.register import register

    p = load_params(params)
    done = register(p.register_, local_bundle(p), REPORTS / "metrics.json", REGISTERED)
    typer.echo(f"{done.model} version {done.version} is {done.alias}, validation {done.validation}")


def promote(params: ParamsFile = PARAMS) -> None:
    """Make the challenger champion, if every gate in params.yaml holds."""
    from deid.params import load_params
    from deid.registry.promotion import promote

    typer.echo(promote(load_params(params).register_))


def rollback(params: ParamsFile = PARAMS) -> None:
    """Give the alias champion back to the version that had it before."""
    from deid.params import load_params
    from deid.registry.promotion import rollback

    typer.echo(rollback(load_params(params).register_))
