"""Mangled files: refused or read, never a crash, never a surprise for who runs a batch."""

import resource
import time
from pathlib import Path
from random import Random

import pytest

from benchmarks.fuzz import MUTATIONS, bombs, fuzz_batch, mutants, whole_files
from deid.batch.pipeline import build_pipeline
from deid.batch.settings import RunSettings
from deid.errors import DeidError
from deid.imaging.codec import MAX_PIXELS, decode, encode
from deid.worlds.world import World


def one_line(error: DeidError) -> bool:
    """A refusal must name the file, in one line."""
    assert "the file" in str(error)
    assert "\n" not in str(error)
    return False


def ends_well(data: bytes) -> bool:
    """Whether a file is read; if so its copy must be readable, if not the reason one line."""
    try:
        decoded = decode(data, "the file", first_frame_only=True)
    except DeidError as error:
        return one_line(error)
    assert decoded.pixels.ndim == 3
    assert decoded.pixels.size <= 3 * MAX_PIXELS
    again = decode(encode(decoded.pixels, decoded.alpha, decoded.form), "the copy")
    assert again.pixels.shape == decoded.pixels.shape
    assert again.form.format == decoded.form.format
    assert (again.alpha is None) == (decoded.alpha is None)
    return True


def test_every_whole_file_is_read() -> None:
    for name, (_, data) in whole_files().items():
        assert ends_well(data), name


def test_three_hundred_mangled_files_are_read_or_refused() -> None:
    start = time.process_time()
    read = sum(ends_well(data) for _, data in mutants(300, seed=1))
    assert 40 < read < 280, "the mutations must break some files and leave some whole"
    assert time.process_time() - start < 120


def test_a_bomb_takes_neither_time_nor_memory() -> None:
    for name, data in bombs().items():
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        ends_well(data)
        assert time.process_time() - start < 10, name
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        assert grown < 1200, f"{name}: {grown:.0f} MB"


def test_the_files_are_the_same_for_the_same_seed() -> None:
    assert mutants(30, seed=4) == mutants(30, seed=4)
    assert mutants(30, seed=4) != mutants(30, seed=5)
    data = whole_files()["png rgb"][1]
    for mutation in MUTATIONS[:-1]:
        assert mutation(bytearray(data), Random(0), data) != data


def test_a_batch_of_mangled_files_keeps_every_promise(world: World, tmp_path: Path) -> None:
    pipeline = build_pipeline(
        RunSettings(method="mask", allow_no_face=True, rendered=True), world, None
    )
    outcome = fuzz_batch(tmp_path / "fuzz", 100, seed=2, pipeline=pipeline)
    assert outcome.broken == [], outcome.text()
    assert outcome.counts["written"] > 15
    assert outcome.counts["quarantined"] > 15
    assert outcome.counts["skipped"] >= 5
    assert outcome.slowest < 15


@pytest.fixture(autouse=True)
def _let_folders_be_removed(tmp_path: Path) -> object:
    yield
    locked = tmp_path / "fuzz/in/locked.png"
    if locked.exists():
        locked.chmod(0o600)
    return None
