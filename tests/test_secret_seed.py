"""A seed of 15 digits or more is a secret: it shapes outputs, resumes, and stands nowhere."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from deid.audit.seal import MANIFEST
from deid.batch import settings as settings_module
from deid.batch.executor import InProcess
from deid.batch.manifest import Records
from deid.batch.pipeline import Pipeline, build_pipeline
from deid.batch.plan import locate
from deid.batch.run import run_batch
from deid.batch.settings import SECRET, RunSettings, is_secret, told_seed, with_seed
from deid.batch.summary import Summary
from deid.errors import DeidError
from deid.secret import new_key, read_key
from deid.serve.options import RequestOptions
from deid.storage.local import LocalStorage
from tests.toy import toy_world

NUMBER = 5290817736412095


@pytest.fixture
def source(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(pixels).save(folder / "a.png")
    return folder


def pipeline(**asked: Any) -> Pipeline:
    return build_pipeline(RunSettings(method="mask", **asked), toy_world(), None)


def run(source: Path, out: Path, **asked: Any) -> Summary:
    return run_batch(locate(str(source), str(out)), lambda at: InProcess(pipeline(**asked), at))


def test_it_is_in_no_file_that_a_batch_leaves_and_the_batch_still_resumes(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert dict(run(source, out, seed=NUMBER).counts) == {"written": 1}
    files = [file for file in out.rglob("*") if file.is_file()]
    assert out / MANIFEST in files
    for file in files:
        data = file.read_bytes().lower()
        assert str(NUMBER).encode() not in data
        assert f"{NUMBER:x}".encode() not in data
    (line,) = Records(LocalStorage(out)).all()
    assert line["seed"] is None
    assert dict(run(source, out, seed=NUMBER).counts) == {"done": 1}
    assert dict(run(source, out, seed=NUMBER + 1).counts) == {"written": 1}


def test_a_seed_that_anybody_finds_is_on_record(source: Path, tmp_path: Path) -> None:
    for seed in (0, 7, SECRET - 1):
        run(source, tmp_path / "out", seed=seed)
        (line,) = Records(LocalStorage(tmp_path / "out")).all()
        assert line["seed"] == seed


def test_a_record_of_an_earlier_version_is_read_with_its_seed(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(source, out, seed=7)
    text = (out / MANIFEST).read_text()
    (out / MANIFEST).write_text(text.replace('"seed": 7', f'"seed": {NUMBER}'))
    (line,) = Records(LocalStorage(out)).all()
    assert line["seed"] == NUMBER


def test_the_fingerprint_tells_secret_seeds_apart_and_gives_no_quick_way_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = {told_seed(seed) for seed in (NUMBER, NUMBER + 1, -NUMBER)}
    assert len(told) == 3
    costs = []
    monkeypatch.setattr(
        settings_module.hashlib, "scrypt", lambda *_, **cost: costs.append(cost) or b"slow"
    )
    assert told_seed(NUMBER) == b"slow".hex()
    assert costs[0]["n"] * costs[0]["r"] * 128 >= 2**24  # bytes of memory for one try
    assert (told_seed(7), len(costs)) == (7, 1)


def test_a_file_gives_it_in_place_of_the_shell_and_the_place_of_the_file_is_no_matter(
    source: Path, tmp_path: Path
) -> None:
    file, moved, other = (tmp_path / name for name in ("seed.key", "moved.key", "other.key"))
    new_key(file)
    new_key(other)
    assert is_secret(read_key(file).seed())
    run(source, tmp_path / "out", seed_file=str(file))
    file.rename(moved)
    assert dict(run(source, tmp_path / "out", seed_file=str(moved)).counts) == {"done": 1}
    assert dict(run(source, tmp_path / "out", seed_file=str(other)).counts) == {"written": 1}
    assert moved.read_text().strip() not in (tmp_path / "out" / MANIFEST).read_text()


def test_of_a_number_and_a_file_one_is_given(tmp_path: Path) -> None:
    new_key(tmp_path / "seed.key")
    with pytest.raises(DeidError, match="give one of them"):
        with_seed(RunSettings(seed=1, seed_file=str(tmp_path / "seed.key")))
    with pytest.raises(DeidError, match="not readable"):
        with_seed(RunSettings(seed_file=str(tmp_path / "none")))


@given(st.integers())
def test_settings_that_are_shown_show_no_seed(seed: int) -> None:
    assert repr(RunSettings(seed=seed)) == repr(RunSettings())


def test_prefect_stores_none_with_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    from flows.deidentify import deidentify
    from flows.form import parsed, settings_from

    kind = inspect.signature(deidentify.fn).parameters["seed"].annotation
    for seed in (SECRET, -SECRET, NUMBER):
        with pytest.raises(ValidationError):
            TypeAdapter(kind).validate_python(seed)
        with pytest.raises(SystemExit):
            parsed(deidentify.fn, ["in", "out", f"--seed={seed}"])
        with pytest.raises(DeidError, match="seed_file"):
            settings_from({"seed": seed})
        assert str(seed) not in capsys.readouterr().err
    form = deidentify.parameters.model_dump()["properties"]["seed"]
    assert (form["exclusiveMinimum"], form["exclusiveMaximum"]) == (-SECRET, SECRET)
    run, _ = settings_from({"seed": 7, "seed_file": None})
    assert run.seed == 7


def test_a_request_with_a_seed_of_its_own_asks_for_no_file_of_the_server() -> None:
    served = RunSettings(seed_file="file")
    assert RequestOptions(seed=3).settings(served) == RunSettings(seed=3)
    assert RequestOptions().settings(served) == served
    with pytest.raises(ValidationError, match="seed_file"):
        RequestOptions.model_validate({"seed_file": "file"})
