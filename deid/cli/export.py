"""`deid export`: a model's networks for programs without deid."""

from pathlib import Path
from typing import Annotated

import typer

from deid.cli.run import Model, WorldName


def export(
    onnx: Annotated[Path, typer.Option(help="The new folder that gets the files.")],
    model: Model = None,
    world: WorldName = None,
) -> None:
    """Write encoders, mappings and generator as ONNX files, held against torch, and a card.

    They draw faces; they neither find nor verify any.
    """
    from deid.batch.project import find_root
    from deid.registry.choice import chosen, model_name
    from deid.registry.export import export_onnx

    root = find_root()
    done = export_onnx(chosen(model, model_name(root), root, world), onnx)
    for network in done["networks"].values():
        license_ = "" if network["commercial"] else "  not for commercial use"
        difference = network["largest_difference_from_torch"]
        typer.echo(f"{network['file']:25} differs by {difference:.1e}{license_}")
    typer.echo(f"{onnx}: {done['model']}, content {done['content_sha256'][:12]}")
