"""What an anonymizer is built from: trained stages, world and settings of a project folder."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from deid.anonymize import ModelPaths
from deid.batch.pipeline import Pipeline, build_pipeline
from deid.batch.plan import Locations, locate
from deid.batch.run import run_batch
from deid.batch.settings import BatchSettings, RunSettings
from deid.batch.summary import Summary
from deid.batch.workers import Executor, InProcess, ProcessPool, compute_on_one_thread
from deid.faces.detection import weights_of
from deid.params import AnonymizeParams, Params, WorldParams, load_params
from deid.weights.catalog import require_commercial_content
from deid.worlds import load_world

PARAMS = "params.yaml"
_CHECKOUT, _PACKAGE = Path(__file__).resolve().parents[2], Path(__file__).resolve().parents[1]
INSTALLED = _PACKAGE if (_PACKAGE / "data").is_dir() else _CHECKOUT
"""Has `data/mini/weights`: a wheel brings it inside the package, a checkout beside it."""

STAGE_ONE, STAGE_TWO = "stage_one", "stage_two"


@dataclass(frozen=True)
class Bundle:
    """Paths and settings from which an anonymizer is built."""

    stage_one: Path
    stage_two: Path
    world: WorldParams
    anonymize: AnonymizeParams


def local_bundle(params: Params, root: Path = Path("data")) -> Bundle:
    """What the pipeline left in the checkout."""
    return Bundle(root / STAGE_ONE, root / STAGE_TWO, params.world, params.anonymize)


def find_root() -> Path:
    """Where `params.yaml` and `data` are: here, or else where this package was installed from."""
    here = Path.cwd()
    return here if (here / PARAMS).is_file() else INSTALLED


def bundle_at(root: Path) -> Bundle:
    """What the pipeline left in the checkout at `root`, from any directory."""
    own = (root / PARAMS).is_file()
    params = load_params(root / PARAMS) if own else Params()
    weights = root / params.world.weights
    if own and params.world.weights == WorldParams().weights and not weights.exists():
        weights = INSTALLED / params.world.weights  # a folder with no more than a params.yaml
    at = {"weights": weights}
    if params.world.faces is not None:
        at["faces"] = root / params.world.faces
    world = params.world.model_copy(update=at)
    return local_bundle(params.model_copy(update={"world": world}), root / "data")


def open_pipeline(bundle: Bundle, asked: RunSettings) -> Pipeline:
    """Everything that `asked` needs, built from `bundle`, whose own `anonymize` settings count."""
    if bundle.world.commercial:
        for spec in (*asked.detectors, *asked.recognizers):
            for file in weights_of(spec):
                require_commercial_content(file)

    stage_two = bundle.stage_two if bundle.stage_two.is_dir() else None
    models = ModelPaths(bundle.stage_one, stage_two) if bundle.stage_one.is_dir() else None
    settings = replace(asked, anonymize=bundle.anonymize)
    return build_pipeline(settings, load_world(bundle.world), models)


def run_project(
    source: str,
    destination: str,
    asked: RunSettings,
    batch: BatchSettings,
    params: Path | None = None,
) -> Summary:
    """`deid run`: a batch with what the pipeline left at `params`, or else here.

    Worker processes do it, so that no picture takes the batch along; a single picture, which has
    none to take along, is done in this process, which starts sooner.
    """
    bundle = local_bundle(load_params(params)) if params else bundle_at(find_root())
    locations = locate(source, destination, batch)

    def start(where: Locations) -> Executor:
        if where.single is not None:
            compute_on_one_thread()
            return InProcess(open_pipeline(bundle, asked), where, batch.timeout)
        return ProcessPool(partial(open_pipeline, bundle, asked), where, batch.jobs, batch.timeout)

    return run_batch(locations, start, batch.prune)
