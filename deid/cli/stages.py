"""The stages of the pipeline, as `dvc.yaml` runs them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deid.errors import DeidError
from deid.option import check_number

if TYPE_CHECKING:
    from deid.params import Params

LATENTS = Path("data/latents")
VALIDATION = Path("data/validation")
STAGE_ONE = Path("data/stage_one")
STAGE_TWO = Path("data/stage_two")
ATTACK = Path("data/attack")  # not in reports, which each evaluation makes anew
REPORTS = Path("reports")
SCORES = Path("study/scores.json")  # not in reports, which each evaluation makes anew
MOST = 4  # processes, unless more are asked for: in the world photo each holds 1.3 GB

ParamsFile = Annotated[Path, typer.Option("--params", help="The parameters file.")]
PARAMS = Path("params.yaml")
Jobs = Annotated[
    int | None,
    typer.Option(min=1, help="Processes; else one a processor, at most 4. A GPU takes one."),
]
Out = Annotated[Path, typer.Option(help="Where the tables and figures are.")]


def sample(
    params: ParamsFile = PARAMS,
    engine: Annotated[
        Literal["processes", "ray"],
        typer.Option(help="processes: on this machine; ray: on a Ray cluster (extra `ray`)."),
    ] = "processes",
    address: Annotated[
        str | None,
        typer.Option(help="Of the Ray cluster, HOST:PORT or auto; else Ray is started here."),
    ] = None,
    gpus: Annotated[
        float, typer.Option(min=0.0, help="GPUs for each process; with --engine ray.")
    ] = 0.0,
) -> None:
    """Draw the (image, w) pairs from the generator, into data/latents, which the nodes of a
    cluster must share."""
    from deid.latents.cluster import Cluster
    from deid.latents.sample import sample
    from deid.params import load_params
    from deid.tracking import tracked_run

    check_number("gpus", gpus, zero=True)
    if engine == "processes" and (address or gpus):
        raise DeidError("--address and --gpus are of a Ray cluster; give --engine ray, too")
    cluster = Cluster(address, gpus) if engine == "ray" else None
    p = load_params(params)
    settings = {"sample": p.sample.model_dump(mode="json"), **_world(p)}
    with tracked_run("sample", settings):
        sample(p.sample, p.world, LATENTS, cluster)


def validate(params: ParamsFile = PARAMS) -> None:
    """Check the pairs, into data/validation; a failed expectation is an error that names it."""
    from deid.latents.validate import validate
    from deid.params import load_params
    from deid.tracking import tracked_run

    p = load_params(params)
    settings = {"validate": p.validate_.model_dump(mode="json"), **_world(p)}
    with tracked_run("validate", settings) as run:
        validate(p.validate_, p.world, LATENTS, VALIDATION)
        run.artifact(VALIDATION / "validation.json")


def stage_one(params: ParamsFile = PARAMS) -> None:
    """Train the disentanglement network, equations (1)-(8), into data/stage_one."""
    from deid.latents.validate import require_valid
    from deid.params import load_params
    from deid.training.stage_one import train_stage_one

    p = load_params(params)
    require_valid(LATENTS, VALIDATION)
    train_stage_one(p.stage_one, p.world, LATENTS, STAGE_ONE)


def stage_two(params: ParamsFile = PARAMS) -> None:
    """Train the adversarial mapping, equations (9)-(12), into data/stage_two."""
    from deid.params import load_params
    from deid.training.stage_two import train_stage_two

    p = load_params(params)
    train_stage_two(p.stage_two, p.world, LATENTS, STAGE_ONE, STAGE_TWO)


def evaluate(
    params: ParamsFile = PARAMS,
    jobs: Jobs = None,
    stages: Annotated[
        Path, typer.Option(help="The folder of stage_one and stage_two.")
    ] = STAGE_ONE.parent,
    out: Out = REPORTS,
) -> None:
    """Measure Tables 1-3 and draw the figures, into reports."""
    from deid.evaluate.run import evaluate
    from deid.params import load_params
    from deid.pool import processors

    p = load_params(params)
    shared = jobs or min(processors(), MOST)
    one, two = stages / STAGE_ONE.name, stages / STAGE_TWO.name
    evaluate(p.evaluate, p.anonymize, p.world, one, two, out, shared)


def attack_stages(params: ParamsFile = PARAMS, jobs: Jobs = None) -> None:
    """Attack what the trained methods make of held-out people, into data/attack."""
    from deid.attack.stage import attack_stages
    from deid.batch.project import local_bundle
    from deid.params import load_params
    from deid.pool import processors

    p = load_params(params)
    attack_stages(p.attack, local_bundle(p), ATTACK, jobs or min(processors(), MOST))


def report(
    params: ParamsFile = PARAMS,
    out: Out = REPORTS,
    ratings: Annotated[
        Path, typer.Option(help="What `deid study score` wrote; without it nothing is rated.")
    ] = SCORES,
) -> None:
    """Write the page of what `evaluate` measured, reports/index.html."""
    from deid.evaluate.report import report
    from deid.params import load_params

    p = load_params(params)
    report(p.evaluate, p.anonymize, p.world, out, ratings)


def _world(params: "Params") -> dict[str, Any]:
    """Which networks, without where they lie on this machine."""
    return {"world": params.world.model_dump(mode="json", exclude={"weights", "faces", "files"})}
