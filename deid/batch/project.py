"""What an anonymizer is built from: trained stages, world and settings of a project folder."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from deid.params import AnonymizeParams, Params, WorldParams, load_params

if TYPE_CHECKING:
    from deid.batch.run import RunSettings, Workshop

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


def open_workshop(bundle: Bundle, asked: "RunSettings") -> "Workshop":
    """Everything that `asked` needs, built from `bundle`, whose own `anonymize` settings count."""
    from deid.anonymize import ModelPaths
    from deid.batch.run import build_workshop
    from deid.faces.detection import weights_of
    from deid.weights.catalog import require_commercial_content
    from deid.worlds import load_world

    if bundle.world.commercial:
        for spec in (*asked.detectors, *asked.recognizers):
            for file in weights_of(spec):
                require_commercial_content(file)

    stage_two = bundle.stage_two if bundle.stage_two.is_dir() else None
    models = ModelPaths(bundle.stage_one, stage_two) if bundle.stage_one.is_dir() else None
    settings = replace(asked, anonymize=bundle.anonymize)
    return build_workshop(settings, load_world(bundle.world), models)
