"""A batch believes no record that it cannot prove, and removes nothing that it did not write."""

import hashlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from deid.batch.executor import InProcess
from deid.batch.outcome import Task, give_up
from deid.batch.pipeline import Pipeline
from deid.batch.plan import locate
from deid.batch.run import run_batch
from deid.batch.workers import ProcessPool
from deid.errors import DeidError
from deid.faces.faces import Faces
from deid.pixels import Pixels
from deid.storage.local import LocalStorage
from tests.executor import CRASHED, HANGING, Dangerous, open_mask
from tests.test_batch import run, save, states

# ---- what lies behind a link, or came to an output's name


@pytest.mark.parametrize("width", [CRASHED, HANGING])
def test_no_original_behind_a_link_at_the_destination_is_removed(
    tmp_path: Path, width: int
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    save(source / "sub/a.png", 1, width)
    before = (source / "sub/a.png").read_bytes()
    out.mkdir()
    (out / "sub").symlink_to("../in/sub")
    summary = run(source, out, jobs=1, timeout=2.0)
    assert summary.counts == {"quarantined": 1}
    assert (source / "sub/a.png").read_bytes() == before


@pytest.mark.parametrize("behind", ["elsewhere", "out/real"])
def test_nothing_behind_a_link_is_read_counted_or_removed(tmp_path: Path, behind: str) -> None:
    save(tmp_path / behind / "a.png", 1)
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out/link").symlink_to(tmp_path / behind)
    storage = LocalStorage(tmp_path / "out")
    for touch in (storage.version, storage.read, storage.delete):
        with pytest.raises(DeidError, match="a link leads out of the folder"):
            touch("link/a.png")
    assert (tmp_path / behind / "a.png").exists()


def test_no_record_is_kept_behind_a_link(tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", 1)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.deid").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DeidError, match="a link leads out of the folder"):
        run(tmp_path / "in", tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("written", ["", hashlib.sha256(b"safe").hexdigest()])
def test_what_others_put_at_an_outputs_name_outlives_a_worker_that_dies(
    tmp_path: Path, written: str
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"somebody's only copy")
    task = Task("a.jpg", "v", "a.jpg", None, None, None)
    ended = give_up(task, "its process died", LocalStorage(tmp_path), "", written)
    assert ended.word == "quarantined"
    assert (tmp_path / "a.jpg").read_bytes() == b"somebody's only copy"


class DiesAfterwards(LocalStorage):
    """Its process dies, or hangs, once the output is written."""

    def replace(self, name: str, data: bytes, version: str | None) -> str:
        super().replace(name, data, version)
        if name == "hangs.png":
            time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@pytest.mark.parametrize("name", ["dies.png", "hangs.png"])
def test_what_a_worker_wrote_before_it_died_goes_with_it(tmp_path: Path, name: str) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    save(source / name, 1)
    places = replace(locate(str(source), str(out)), destination=DiesAfterwards(out))
    summary = run_batch(places, lambda p: ProcessPool(open_mask, p, 1, 3.0))
    assert summary.counts == {"quarantined": 1}
    assert not (out / name).exists()


class Meanwhile(Dangerous):
    """A file comes to the output's name while the picture is looked at, which never ends."""

    def __init__(self, output: Path) -> None:
        self._output = output

    def detect(self, pictures: Sequence[Pixels]) -> list[Faces]:
        self._output.write_bytes(b"somebody's only copy")
        return super().detect(pictures)


def test_what_comes_to_an_outputs_name_stays_when_its_picture_takes_too_long(
    tmp_path: Path,
) -> None:
    save(tmp_path / "in/a.png", 1, HANGING)
    pipeline = open_mask()
    detector = Meanwhile(tmp_path / "out/a.png")
    slow: Pipeline = replace(pipeline, components=replace(pipeline.components, detector=detector))
    places = locate(str(tmp_path / "in"), str(tmp_path / "out"))
    summary = run_batch(places, lambda p: InProcess(slow, p, 0.3))
    assert summary.counts == {"quarantined": 1}
    assert (tmp_path / "out/a.png").read_bytes() == b"somebody's only copy"
    assert states(tmp_path / "out") == {"a.png": "quarantined"}
