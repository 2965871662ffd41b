"""The bundle of a project folder, and the pipeline that is built from it."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from deid.batch.bundle import STAGE_ONE, STAGE_TWO, Bundle, shipped_bundle
from deid.batch.cluster import RayCluster
from deid.batch.executor import Executor, InProcess
from deid.batch.plan import Locations, locate
from deid.batch.run import run_batch
from deid.batch.settings import BatchSettings, RunSettings, with_seed
from deid.batch.summary import Summary
from deid.batch.workers import ProcessPool
from deid.errors import DeidError
from deid.params import Params, WorldParams, load_params
from deid.pool import compute_on_one_thread
from deid.secret import read_key
from deid.weights.cards import SUFFIX
from deid.weights.catalog import require_commercial_content

if TYPE_CHECKING:
    from deid.batch.pipeline import Pipeline
    from deid.worlds.world import World

Contents = tuple[Any, ...]
"""Tells what files held when a pipeline was built of them."""

PARAMS = "params.yaml"
PROFILES = "profiles"
_CHECKOUT, _PACKAGE = Path(__file__).resolve().parents[2], Path(__file__).resolve().parents[1]
INSTALLED = _PACKAGE if (_PACKAGE / "data").is_dir() else _CHECKOUT
"""Has `data/mini/weights`: a wheel brings it inside the package, a checkout beside it."""
_FREE: dict[str, Any] = {"seed": 0, "allow_no_face": False, "first_frame_only": False}


def local_bundle(params: Params, root: Path = Path("data")) -> Bundle:
    """What the pipeline left in the checkout."""
    return Bundle(root / STAGE_ONE, root / STAGE_TWO, params.world, params.anonymize)


def find_root() -> Path:
    """Where `params.yaml` and `data` are: here, or else where this package was installed from."""
    here = Path.cwd()
    return here if (here / PARAMS).is_file() else INSTALLED


def bundle_at(root: Path, world: str | None = None, trained_there: bool = False) -> Bundle:
    """What there is for `world` at `root`: what comes with this package, else what the pipeline
    trained there; with `trained_there`, the other way round.

    Without a `world`, the one in the parameters of `root`; where there are none, photographs. What
    comes with this package goes before what was trained in less time, until somebody chooses that.
    """
    file = root / PARAMS
    params = load_params(file) if file.is_file() else Params(world=WorldParams(name="photo"))
    if world not in (None, params.world.name):
        return _other_world(root, world, params.world.commercial, trained_there)
    bundle = local_bundle(_placed(params, root), root / "data")
    shipped = shipped_bundle(params.world.name)
    if shipped is None or (trained_there and bundle.stage_one.is_dir()):
        return bundle
    return replace(shipped, world=bundle.world) if file.is_file() else shipped


def _other_world(root: Path, name: str, commercial: bool, trained_there: bool) -> Bundle:
    """Of another world than that of `root`, where `make repro PROFILE=NAME` trains one; under the
    terms of `root`, too."""
    known, folder = Params(world=_world_params(name)), root / PROFILES / name
    if (folder / PARAMS).is_file() and load_params(folder / PARAMS).world.name == name:
        found = bundle_at(folder, trained_there=trained_there)
    else:
        nowhere = root / "data" / name  # nothing is trained there
        found = shipped_bundle(name) or local_bundle(_placed(known, root), nowhere)
    terms = {"commercial": commercial or found.world.commercial}
    return replace(found, world=found.world.model_copy(update=terms))


def _world_params(name: str) -> WorldParams:
    try:
        return WorldParams.model_validate({"name": name})
    except ValidationError:
        raise DeidError(f"world {name!r}: unknown; choose photo, mini or ffhq") from None


def _placed(params: Params, root: Path) -> Params:
    """The same with the paths of its world taken from `root`."""
    weights = root / params.world.weights
    if params.world.weights == WorldParams().weights and not weights.exists():
        weights = INSTALLED / params.world.weights  # a folder with no more than a params.yaml
    at: dict[str, object] = {"weights": weights, "files": _files_at(root, params.world.files)}
    if params.world.faces is not None:
        at["faces"] = root / params.world.faces
    return params.model_copy(update={"world": params.world.model_copy(update=at)})


def _files_at(root: Path, files: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """`world.files`, in which paths of converted weights are relative to `root`."""
    if root == Path.cwd():
        return files
    return {
        role: tuple(str(root / name) if name.endswith(SUFFIX) else name for name in names)
        for role, names in files.items()
    }


def open_pipeline(
    bundle: Bundle, asked: RunSettings, update_model: bool = False, world: "World | None" = None
) -> "Pipeline":
    """Everything that `asked` needs, built from `bundle`, whose own `anonymize` settings count.

    With `update_model`, outputs of other versions of a registered model are not done. `world`: that
    of `bundle`, where it is loaded already.
    """
    from deid.anonymize import ModelPaths  # what draws, and torch with it: not for a parent
    from deid.batch.pipeline import build_pipeline
    from deid.faces.detection import weights_of
    from deid.worlds import load_world

    if bundle.world.commercial:
        for spec in (*asked.detectors, *asked.recognizers):
            for file in weights_of(spec):
                require_commercial_content(file)

    stage_two = bundle.stage_two if bundle.stage_two.is_dir() else None
    models = ModelPaths(bundle.stage_one, stage_two) if bundle.stage_one.is_dir() else None
    settings = replace(asked, anonymize=bundle.anonymize)
    pipeline = build_pipeline(settings, world or load_world(bundle.world), models)
    return replace(pipeline, origin=bundle.origin, update_model=update_model)


class Pipelines:
    """Pipelines of one bundle over one loaded world, each built when it is first asked for."""

    MOST = 8  # kept; what was asked for longest ago goes first

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._built: dict[tuple[RunSettings, Contents], Pipeline] = {}

    @cached_property
    def world(self) -> "World":
        from deid.worlds import load_world

        return load_world(self.bundle.world)

    def get(self, asked: RunSettings) -> "Pipeline":
        """One for `asked`; what no network is built for may differ from call to call for free."""
        from deid.batch.asked import notes_for

        asked = with_seed(asked)
        plain = replace(asked, **_FREE)
        key = plain, _contents(plain)
        built = self._built.pop(key, None) or open_pipeline(self.bundle, plain, world=self.world)
        self._built[key] = built
        while len(self._built) > self.MOST:
            del self._built[next(iter(self._built))]
        settings = replace(asked, anonymize=built.settings.anonymize)
        return replace(built, settings=settings, notes=notes_for(asked))


def _contents(asked: RunSettings) -> Contents:
    """What is in the files that `asked` names, and not where they lie: other keys, people and
    networks may take their places."""
    from deid.faces.detection import weights_of  # torch comes with both
    from deid.gate.choose import reference_hashes

    key = read_key(asked.key).identity if asked.key else ""
    people = (reference_hashes(place) for place in (asked.keep, asked.only))
    # A name alone is a file of the store, which is no other as long as its hash is checked.
    specs = (spec for spec in (*asked.detectors, *asked.recognizers) if "=" in spec)
    networks = (_state(file) for spec in specs for file in weights_of(spec))
    return (key, *map(tuple, people), *networks)


def _state(file: Path) -> tuple[int, ...]:
    """Of a file too large to be hashed for each picture; nothing where there is none."""
    if not file.is_file():
        return ()
    stat = file.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def run_project(
    source: str,
    destination: str,
    asked: RunSettings,
    batch: BatchSettings,
    bundle: Bundle,
    around: Callable[[Executor], Executor] = lambda executor: executor,
    may_be_empty: bool = False,
) -> Summary:
    """`deid run`: a batch with the model `bundle`.

    Worker processes do it, so that no picture takes the batch along; a single picture, which has
    none to take along, is done in this process, which starts sooner. `around` may wrap what does
    the work, as the flow does; `may_be_empty` as in `run_batch`.
    """
    locations = locate(source, destination, batch)

    open_ = partial(open_pipeline, bundle, asked, batch.update_model)

    def start(where: Locations) -> Executor:
        if where.single is not None:
            compute_on_one_thread()
            return InProcess(open_(), where, batch.timeout)
        if batch.engine == "ray":
            return around(RayCluster(open_, where, batch))
        return around(ProcessPool(open_, where, batch.jobs, batch.timeout))

    return run_batch(locations, start, batch.prune, batch.retry_quarantined, may_be_empty)
