"""What a worker process does: it holds one model, and makes pictures safe, one or several at a
time."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import nn

from deid.anonymize import METHODS
from deid.batch.bundle import Bundle
from deid.batch.in_memory import Bounds, Box, Refused, Result, deidentify_bytes
from deid.batch.pipeline import Pipeline
from deid.batch.project import Pipelines
from deid.batch.settings import TRAINED, RunSettings
from deid.errors import DeidError, NoFile
from deid.serve.logs import to_standard_error
from deid.serve.together import each, join
from deid.worlds.world import LooksOfIdentity, World

NEEDS_STAGE_TWO = ("adversarial",)
WITHHELD = "the picture: cannot be made safe; the log says where"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PictureRequest:
    """One picture to make safe."""

    data: bytes
    settings: RunSettings
    keep: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Made:
    """A safe picture, and the name of the model that made it: while one gives way to the next, only
    the worker knows."""

    result: Result
    model: str


@dataclass(frozen=True)
class Refusal:
    """Why no safe picture came of it; `code` as in `Refused`."""

    code: str
    detail: str


@dataclass(frozen=True)
class Ready:
    """What a worker says once its networks are loaded."""

    world: str
    methods: tuple[str, ...]


Work = Callable[[Sequence[PictureRequest]], list[Made | Refusal]]


def begin(
    bundle: Bundle, settings: RunSettings, bounds: Bounds, model: str, batch: int = 1
) -> tuple[Ready, Work]:
    """For `deid.batch.workers.Worker`; `model` is what `bundle` is called, and `batch` how many
    pictures there may be at a time. Raises `DeidError` where `settings`, those of a request that
    asks for nothing else, cannot be built."""
    to_standard_error()
    pipelines = Pipelines(bundle)
    for note in pipelines.get(settings).notes:
        log.warning(note)
    if batch > 1:
        for network in networks_of(pipelines.world):
            join(network)
            if isinstance(network, LooksOfIdentity):
                join(network, "with_code")

    def make(task: tuple[PictureRequest, Pipeline | Refusal]) -> Made | Refusal:
        picture, pipeline = task
        if isinstance(pipeline, Refusal):
            return pipeline
        return _made(picture, pipeline, bounds, model)

    def work(pictures: Sequence[PictureRequest]) -> list[Made | Refusal]:
        # Pipelines are built here and not side by side, where one might be built twice.
        return each(make, [(picture, _pipeline(picture, pipelines)) for picture in pictures])

    return Ready(bundle.world.name, methods_of(bundle)), work


def _pipeline(picture: PictureRequest, pipelines: Pipelines) -> Pipeline | Refusal:
    try:
        return pipelines.get(picture.settings)
    except NoFile:  # of the service, and no fault of the request
        log.exception("withheld")
        return Refusal("withheld", WITHHELD)
    except DeidError as error:
        return Refusal("bad_option", str(error))


def _made(
    picture: PictureRequest, pipeline: Pipeline, bounds: Bounds, model: str
) -> Made | Refusal:
    try:
        data, keep = picture.data, picture.keep
        return Made(deidentify_bytes(pipeline, data, "the picture", keep, bounds), model)
    except Refused as error:
        if error.__cause__ is None:
            return Refusal(error.code, str(error))
        log.error("withheld", exc_info=error.__cause__)  # what it says is not for outside
        return Refusal(error.code, WITHHELD)


def networks_of(world: World) -> Iterator[nn.Module]:
    """Those that every picture needs. (Not the trunk of En_expr, which models copy.)"""
    parts = (world.identity, world.landmarks, world.looks, *world.held_out.values())
    yield from (part for part in parts if isinstance(part, nn.Module))
    yield from _within(world.detector)


def _within(thing: object) -> Iterator[nn.Module]:
    """The networks in the attributes of a detector, and of the parts that it consists of."""
    if isinstance(thing, nn.Module):
        yield thing
    elif type(thing).__module__.startswith("deid."):
        for part in vars(thing).values():
            yield from _within(part)


def methods_of(bundle: Bundle) -> tuple[str, ...]:
    """The methods for which `bundle` has what they need."""
    lacking: set[str] = set()
    if not bundle.stage_one.is_dir():
        lacking.update(TRAINED)
    if not bundle.stage_two.is_dir():
        lacking.update(NEEDS_STAGE_TWO)
    return tuple(method for method in METHODS if method not in lacking)


def default_settings(asked: RunSettings, bundle: Bundle, timeout: float) -> RunSettings:
    """`asked`, its method one that `bundle` has, and masks before `timeout`; `DeidError` for what a
    service cannot do."""
    if asked.dry_run:
        raise DeidError("--dry-run: a service draws no boxes; leave it out")
    if asked.keep_metadata:
        raise DeidError("--keep-metadata: a service gives none back; leave it out")
    if asked.seconds is None:
        asked = replace(asked, seconds=timeout / 2)
    unasked = asked.method == RunSettings.method and asked.key is None  # a key is for swap
    if unasked and asked.method not in methods_of(bundle):
        return replace(asked, method="blur")
    return asked
