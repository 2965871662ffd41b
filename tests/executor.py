"""What processes of their own run in the tests of a batch: importable, so that they find it."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deid.batch.executor import InProcess
from deid.batch.pipeline import Pipeline, build_pipeline
from deid.batch.plan import locate
from deid.batch.run import run_batch
from deid.batch.settings import RunSettings
from deid.faces.faces import Faces
from deid.pixels import Pixels
from tests.toy import ToyDetector, toy_world

KILLED, CRASHED, HANGING, STARVED = 101, 102, 103, 104  # widths of pictures that do it


class Dangerous(ToyDetector):
    """Does to its process what a picture's width says."""

    name = "dangerous"

    def detect(self, pictures: Sequence[Pixels]) -> list[Faces]:
        width = pictures[0].shape[1]
        if width == KILLED:
            os.kill(os.getpid(), signal.SIGKILL)
        if width == CRASHED:
            os.kill(os.getpid(), signal.SIGSEGV)
        if width == HANGING:
            time.sleep(600)
        if width == STARVED:
            raise MemoryError("no memory left")
        return super().detect(pictures)


def open_mask() -> Pipeline:
    """A pipeline that masks the faces of the toy world, and takes some harm."""
    pipeline = build_pipeline(RunSettings(method="mask"), toy_world(), None)
    return replace(pipeline, components=replace(pipeline.components, detector=Dangerous()))


def open_preview() -> Pipeline:
    """A pipeline that draws boxes into copies."""
    return build_pipeline(RunSettings(method="mask", dry_run=True), toy_world(), None)


def open_seeded(seed: Path) -> Pipeline:
    """A pipeline whose seed stands in a file."""
    return build_pipeline(RunSettings(method="mask", seed=int(seed.read_text())), toy_world(), None)


def mask(source: Path, destination: Path) -> None:
    """A batch in this process."""
    places = locate(str(source), str(destination))
    run_batch(places, lambda places: InProcess(open_mask(), places))


class Slow(ToyDetector):
    """Takes its time, so that there is something to interrupt."""

    name = "slow"

    def detect(self, pictures: Sequence[Pixels]) -> list[Faces]:
        time.sleep(0.3)
        return super().detect(pictures)


def open_slow_mask() -> Pipeline:
    """The same without harm, slowly."""
    pipeline = build_pipeline(RunSettings(method="mask"), toy_world(), None)
    return replace(pipeline, components=replace(pipeline.components, detector=Slow()))
