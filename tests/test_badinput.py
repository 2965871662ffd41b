"""The careless user: damaged inputs, full disks, locked stores and killed stages.

Each ends in one line that names the file or key and what to do, leaves nothing half-written and
its inputs as they were; and what was killed goes on to the same bytes, with nothing doubled.
"""

import errno
import json
import os
import resource
import shutil
import signal
import socket
import sqlite3
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from deid import cli, tracking
from deid.anonymize import ModelPaths
from deid.batch.bundle import Bundle
from deid.errors import DeidError
from deid.evaluate.run import CELLS, evaluate
from deid.latents.shards import LatentDataset
from deid.latents.validate import require_valid, validate_in
from deid.model import Deidentifier
from deid.params import (
    AnonymizeParams,
    EvaluateParams,
    RegisterParams,
    ValidateParams,
    WorldParams,
    load_params,
)
from deid.registry.register import Registration, register, standing
from deid.stage_files import WEIGHTS, content_of
from deid.storage.staging import resumable_directory, write_atomically
from tests.conftest import ROOT
from tests.servers import free_port
from tests.toy import draw_pairs, toy_world
from tests.toy_model import save_toy_model

VALIDATE = ValidateParams(images=20, max_w_abs_mean=3.0)
EVALUATE = EvaluateParams(identities=3, views=2, seeds=1)
Change = Callable[[Path], object]


# --- what the tests do to files and processes ---


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` with its bytes."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def cut(path: Path) -> None:
    """Lose the second half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit(**values: Any) -> Change:
    """Change or, with None, remove keys of a JSON file."""

    def change(path: Path) -> None:
        content = json.loads(path.read_text()) | values
        path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    return change


def write(data: bytes) -> Change:
    """Replace a file's content."""
    return lambda path: path.write_bytes(data)


def into_folder(path: Path) -> None:
    """Put a folder where a file was."""
    path.unlink()
    path.mkdir()


def array(rows: np.ndarray[Any, Any]) -> Change:
    """Replace a shard."""
    return lambda path: np.save(path, rows)


@contextmanager
def full_disk(size: int = 512) -> Iterator[None]:
    """Whoever writes more than `size` bytes to a file gets an OSError without a name, as on a
    full disk. Python 3.11 would write half of a module's byte code then, and find it good."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def killed(work: Callable[[], object]) -> None:
    """Run `work` in a process that kills itself in the middle of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which a child has not
        child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)  # it should not have come so far
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory with a store of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def registry(checkout: Path, empty_store: Path) -> Path:
    """A current directory whose store is there and empty."""
    shutil.copyfile(empty_store, checkout / "mlflow.db")
    return checkout


def deid(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str]:
    """Run `deid WORDS`; exit code and standard error."""
    monkeypatch.setattr("sys.argv", ["deid", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0), capsys.readouterr().err


# --- params ---


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("sample:\n  count: true", "sample.count"),
        ("sample:\n  count: 1.5", "sample.count"),
        ("sample:\n  count: 0", "sample.count"),
        ("sample:\n  truncation: true", "sample.truncation"),
        ("sample:\n", "sample"),
        ("sample: 3", "sample"),
        ("validate:\n  brightness: [0.9, 0.1]", "validate.brightness"),
        ("validate:\n  brightness: [0.1]", "validate.brightness"),
        ("stage_one:\n  lambda_id: .nan", "stage_one.lambda_id"),
        ("stage_one:\n  lambda_id: .inf", "stage_one.lambda_id"),
        ("stage_one:\n  mapping_widths: [512, 512]", "stage_one.mapping_widths"),
        ("register:\n  model: a/b", "register.model"),
        ("register:\n  model: ''", "register.model"),
        ("register:\n  gates:\n    max_id_similarity: .nan", "register.gates.max_id_similarity"),
        ("register:\n  gates:\n    min_detect: 1", "register.gates.min_detect: unknown key"),
        ("- sample", "top level"),
        ("sample: !!python/object/apply:os.getcwd []", "not readable as YAML"),
    ],
)
def test_a_parameter_that_means_nothing_is_named(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(DeidError) as caught:
        load_params(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert named in str(caught.value)


# --- folders that appear whole or not at all ---


@pytest.mark.parametrize("name", ["out", "out.partial"])
def test_a_file_where_a_folder_belongs_stops_a_stage_before_its_work(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("mine")
    with (
        pytest.raises(DeidError, match=f"{name}: a folder belongs here"),
        resumable_directory(tmp_path / "out", 1),
    ):
        pytest.fail("the work was begun")
    assert tree(tmp_path) == {name: b"mine"}


def test_work_with_a_damaged_fingerprint_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial/.fingerprint").write_bytes(b"\xff\xfe")
    (tmp_path / "out.partial/half").touch()
    with resumable_directory(tmp_path / "out", 1) as work:
        (work / "whole").touch()
    assert list(tree(tmp_path)) == ["out/whole"]


def test_work_is_kept_where_the_old_output_cannot_be_removed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()

    def refuse(path: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    def work_for_hours() -> None:
        with resumable_directory(tmp_path / "out", 1) as work:
            (work / "hours").write_text("of work")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuse)
        with pytest.raises(OSError, match="Read-only"):
            work_for_hours()
    with resumable_directory(tmp_path / "out", 1) as work:
        assert (work / "hours").read_text() == "of work"


def test_a_full_disk_names_the_file_and_leaves_no_temporary_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"before")
    with full_disk(), pytest.raises(OSError, match="File too large") as caught:
        write_atomically(tmp_path / "file", bytes(1000))
    assert caught.value.filename == str(tmp_path / "file")
    assert tree(tmp_path) == {"file": b"before"}


def test_writing_takes_no_name_that_is_somebodys_and_ends_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_size))
    (tmp_path / "theirs").write_bytes(b"theirs")
    (tmp_path / ".file.tmp").symlink_to("theirs")
    write_atomically(tmp_path / "file", b"12345")
    assert synced == [5]
    assert (tmp_path / "theirs").read_bytes() == b"theirs"
    assert (tmp_path / ".file.tmp").is_symlink()
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"6")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".file.tmp", "file", "theirs"]
    assert (tmp_path / "file").read_bytes() == b"12345"


def interrupt(_: int) -> None:
    raise KeyboardInterrupt


def test_what_a_killed_run_left_half_written_is_in_no_finished_folder(tmp_path: Path) -> None:
    def killed() -> None:
        with resumable_directory(tmp_path / "out", 1) as work:
            (work / "part").mkdir()
            (work / "part/.deid-0123456789abcdef.tmp").write_bytes(b"half")
            (work / "part/done").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    with resumable_directory(tmp_path / "out", 1) as work:
        assert (work / "part/done").exists()
    assert list(tree(tmp_path)) == ["out/part/done"]


# --- pairs ---


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("index.json", cut),
        ("index.json", write(b"[]")),
        ("index.json", write(b"\xff\x00")),
        ("index.json", edit(count=None)),
        ("index.json", edit(count=0)),
        ("index.json", edit(count="many")),
        ("images-00001.npy", cut),
        ("images-00001.npy", write(b"")),
        ("images-00001.npy", array(np.zeros((30, 8, 8, 3), np.uint8))),
        ("images-00001.npy", array(np.array(3, np.uint8))),
        ("w-00001.npy", cut),
        ("w-00001.npy", array(np.zeros((30, 3), np.float32))),
        ("w-00001.npy", array(np.zeros((30, 16), np.float64))),
        ("w-00001.npy", array(np.array(["a"] * 30))),
        ("w-00001.npy", array(np.array(3.0, np.float32))),
        ("stats.safetensors", cut),
        ("stats.safetensors", Path.unlink),
    ],
)
def test_damaged_pairs_are_named_by_validation_and_by_training(
    tmp_path: Path, name: str, change: Change
) -> None:
    latents = draw_pairs(tmp_path / "latents", 60, 30)
    change(latents / name)
    before = tree(tmp_path)
    for use in (
        lambda: LatentDataset(latents),
        lambda: validate_in(VALIDATE, toy_world(), latents, tmp_path / "validation"),
    ):
        with pytest.raises(DeidError, match="draw the pairs again with `deid sample`") as caught:
            use()
        assert str(latents / name) in str(caught.value)
    assert tree(tmp_path) == before


def test_a_full_disk_stops_validation_and_leaves_no_verdict(tmp_path: Path) -> None:
    latents = draw_pairs(tmp_path / "latents", 60, 30)
    before = tree(latents)
    with full_disk(1000), pytest.raises(OSError, match="File too large") as caught:
        validate_in(VALIDATE, toy_world(), latents, tmp_path / "validation")
    assert str(caught.value.filename).startswith(str(tmp_path / "validation.partial"))
    assert not (tmp_path / "validation").exists()
    validate_in(VALIDATE, toy_world(), latents, tmp_path / "validation")
    assert tree(latents) == before
    assert not (tmp_path / "validation.partial").exists()


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good `latents` and their `validation`."""
    root = tmp_path_factory.mktemp("validated")
    latents = draw_pairs(root / "latents", 60, 30)
    validate_in(VALIDATE, toy_world(), latents, root / "validation")
    return root


def test_a_validation_that_was_killed_ends_as_an_undisturbed_one(
    validated: Path, tmp_path: Path
) -> None:
    latents, calm, out = validated / "latents", validated / "validation", tmp_path / "validation"
    with pytest.MonkeyPatch.context() as patch:
        # Pages are written by then, and still fetch what they show.
        patch.setattr("deid.latents.expectations._write_offline", die)
        killed(lambda: validate_in(VALIDATE, toy_world(), latents, out))
    assert not out.exists()
    validate_in(VALIDATE, toy_world(), latents, out)
    report = (out / "validation.json").read_bytes()
    assert report == (calm / "validation.json").read_bytes()
    pages = [len(list((folder / "data_docs").rglob("*.html"))) for folder in (out, calm)]
    assert pages[0] == pages[1]
    assert not out.with_name("validation.partial").exists()


def test_training_asks_for_the_verdict_on_its_very_pairs(
    validated: Path,
    checkout: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    latents = checkout / "data/latents"
    shutil.copytree(validated / "latents", latents)
    shutil.copy(ROOT / "profiles/mini.yaml", checkout / "params.yaml")
    code, said = deid(monkeypatch, capsys, "stage-one")
    assert (code, said) == (
        1,
        "deid: data/validation/validation.json: missing; run `deid validate` before you train\n",
    )
    validation = checkout / "data/validation"
    shutil.copytree(validated / "validation", validation)
    require_valid(latents, validation)
    good = (validation / "validation.json").read_bytes()
    for change, named in (
        (edit(success=False), "failed its validation"),
        (edit(success=None), "damaged"),
        (edit(pairs=7), "other pairs"),
        (cut, "damaged"),
    ):
        (validation / "validation.json").write_bytes(good)
        change(validation / "validation.json")
        with pytest.raises(DeidError, match=named):
            require_valid(latents, validation)


# --- trained models and evaluation ---


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> ModelPaths:
    return save_toy_model(tmp_path_factory.mktemp("trained"))


@pytest.mark.parametrize("stage", ["stage_one", "stage_two"])
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model.safetensors", cut),
        ("model.safetensors", Path.unlink),
        ("model.json", cut),
        ("model.json", Path.unlink),
        ("model.json", write(b"[]")),
        ("model.json", write(b"\xff\x00")),
        ("model.json", edit(sha256="0" * 64)),
        ("model.json", edit(world_sha256=None)),
        ("model.json", edit(config={})),
        ("model.json", edit(config="wide")),
        (
            "model.json",
            edit(config={"mapping_widths": "wide", "adversarial_widths": 3, "delta": 1}),
        ),
    ],
)
def test_a_damaged_model_is_named(
    trained: ModelPaths, tmp_path: Path, stage: str, name: str, change: Change
) -> None:
    shutil.copytree(trained.stage_one.parent, tmp_path, dirs_exist_ok=True)
    change(tmp_path / stage / name)
    before = tree(tmp_path)
    with pytest.raises(DeidError, match=r"dvc repro|restore") as caught:
        Deidentifier.load(tmp_path / "stage_one", tmp_path / "stage_two", toy_world())
    assert str(tmp_path / stage) in str(caught.value)
    assert tree(tmp_path) == before


def runs(stage: str) -> list[tuple[str, float]]:
    """Status and number of figures of each run of a stage."""
    client = tracking.mlflow_client()
    found = client.search_runs([tracking.experiment_id(client)], f"tags.stage = '{stage}'")
    return [(run.info.status, len(run.data.metrics)) for run in found]


def test_an_evaluation_that_was_killed_ends_as_an_undisturbed_one(
    trained: ModelPaths, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deid.worlds.load_world", lambda _: toy_world())

    def run(out: str) -> None:
        assert trained.stage_two is not None
        anonymize = AnonymizeParams(pgd_steps=2)
        places = (trained.stage_one, trained.stage_two, Path(out))
        evaluate(EVALUATE, anonymize, WorldParams(), *places)

    run("calm")
    ((_, count),) = runs("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deid.evaluate.run.draw_figures", die)
        killed(lambda: run("reports"))
    assert sorted(status for status, _ in runs("evaluate")) == ["FINISHED", "RUNNING"]
    cells = sorted((checkout / "reports.partial" / CELLS).iterdir())
    cut(cells[0])  # a crash of the whole machine may do that
    cells[1].unlink()
    run("reports")
    assert tree(checkout / "reports") == tree(checkout / "calm")
    assert runs("evaluate") == [("FINISHED", count)] * 2
    assert not list(checkout.rglob("*.partial"))


# --- the registry ---


def metrics_file(path: Path, **changes: Any) -> Path:
    """A metrics.json with the gated figures only, of the bundle beside it."""
    bundle = small_bundle(path.parent / "bundle")
    values = {"id_similarity_selecting": 0.2, "reidentification_selecting": 0.01}
    values |= {"detect_rate": 1.0, "source_id_loss": 0.05, "fid": 2.0} | changes
    of = {key: {"mean": value, "std": 0.0} for key, value in values.items()}
    measured = content_of(bundle.stage_one, bundle.stage_two, bundle.anonymize, bundle.world)
    table = {"table1": {"adversarial": of}, "table2": {"swap": of}, "measured": measured}
    path.write_text(json.dumps(table))
    return path


def small_bundle(folder: Path) -> Bundle:
    for name in ("stage_one", "stage_two", "weights"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        save_file({"w": np.zeros(4, np.float32)}, str(folder / name / WEIGHTS))
    world = WorldParams(weights=folder / "weights")
    return Bundle(folder / "stage_one", folder / "stage_two", world, AnonymizeParams())


@pytest.mark.parametrize(
    "change",
    [
        cut,
        Path.unlink,
        into_folder,
        write(b"[1]"),
        write(b"\xff\x00"),
        lambda path: metrics_file(path, id_similarity_selecting=float("nan")),
        lambda path: metrics_file(path, detect_rate="high"),
    ],
)
def test_without_good_figures_nothing_is_registered(checkout: Path, change: Change) -> None:
    metrics = metrics_file(checkout / "metrics.json")
    change(metrics)
    bundle, out = small_bundle(checkout / "bundle"), checkout / "registered.json"
    with pytest.raises(DeidError, match=r"metrics\.json.*run `dvc repro"):
        register(RegisterParams(), bundle, metrics, out)
    assert not out.exists()
    assert not (checkout / "mlflow.db").exists()


@pytest.mark.parametrize("moment", ["packing", "before the version", "after the version"])
def test_a_registration_that_was_killed_is_taken_up_and_never_doubled(
    registry: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, moment: str
) -> None:
    metrics, bundle = metrics_file(registry / "metrics.json"), small_bundle(registry / "bundle")
    client = tracking.mlflow_client()

    def attempt() -> Registration:
        return register(RegisterParams(), bundle, metrics, registry / "registered.json")

    create = type(client).create_model_version

    def create_and_die(*args: Any, **kwargs: Any) -> None:
        create(*args, **kwargs)
        die()

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with pytest.MonkeyPatch.context() as patch:
        if moment == "packing":
            patch.setattr(tracking.Tracker, "artifact", die)
        else:
            late = create_and_die if moment == "after the version" else die
            patch.setattr(type(client), "create_model_version", late)
        killed(attempt)
    assert [status for status, _ in runs("register")] == ["RUNNING"]
    assert not (registry / "registered.json").exists()
    done = attempt()
    assert (done.version, done.alias) == (1, "champion")
    ((status, figures),) = runs("register")
    assert status == "FINISHED"
    assert figures >= 20
    assert len(client.search_model_versions("name='face-deid'")) == 1
    assert not list(registry.rglob("*.partial"))
    assert not list(temporary.iterdir())
    assert attempt() == done
    assert len(runs("register")) == 1


def test_a_folder_in_place_of_the_record_is_named_before_anything_is_registered(
    checkout: Path,
) -> None:
    (checkout / "registered.json").mkdir()
    metrics, bundle = metrics_file(checkout / "metrics.json"), small_bundle(checkout / "bundle")
    with pytest.raises(DeidError, match=r"registered\.json: a file belongs here"):
        register(RegisterParams(), bundle, metrics, checkout / "registered.json")
    assert runs("register") == []


@pytest.mark.parametrize("command", ["promote", "rollback"])
@pytest.mark.parametrize(
    ("state", "named"), [("garbage", "not a database"), ("folder", "open"), ("locked", "locked")]
)
def test_a_store_that_cannot_be_used_is_one_line(
    checkout: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    state: str,
    named: str,
) -> None:
    shutil.copy(ROOT / "profiles/mini.yaml", checkout / "params.yaml")
    monkeypatch.setattr("deid.tracking.store.SECONDS_FOR_OTHERS", 0.1)
    store = checkout / "mlflow.db"
    if state == "garbage":
        store.write_bytes(b"not a database " * 500)
    elif state == "folder":
        store.mkdir()
    holder = sqlite3.connect(store if state == "locked" else ":memory:", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        code, said = deid(monkeypatch, capsys, command)
    finally:
        holder.close()
    assert code == 1
    assert said.startswith(f"deid: {store}: ")
    assert named in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("state", ["down", "silent"])
@pytest.mark.parametrize("command", ["promote", "rollback"])
def test_a_tracking_server_that_does_not_answer_is_named_within_seconds(
    checkout: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    state: str,
    command: str,
) -> None:
    shutil.copy(ROOT / "profiles/mini.yaml", checkout / "params.yaml")
    tracking.mlflow_client()  # the import alone may take as long
    assert float(tracking.ONE_TRY["MLFLOW_HTTP_REQUEST_TIMEOUT"]) <= 8
    monkeypatch.setitem(tracking.ONE_TRY, "MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if state == "down":
            server.close()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        begun = time.monotonic()
        code, said = deid(monkeypatch, capsys, command)
    assert code == 1
    assert f"//127.0.0.1:{port}: the tracking server does not answer" in said
    assert len(said.splitlines()) == 1
    assert time.monotonic() - begun < 10


def test_a_training_begins_nothing_while_the_tracking_server_is_down(
    registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking.mlflow_client()  # the import alone may take as long
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    begun = time.monotonic()
    with pytest.raises(DeidError, match="does not answer"), tracking.tracked_run("stage_one", {}):
        raise AssertionError("the block must not run")
    assert time.monotonic() - begun < 10


def test_an_address_that_is_no_store_is_one_line_without_its_password(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(ROOT / "profiles/mini.yaml", checkout / "params.yaml")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nothing://me:secret@host/store")
    code, said = deid(monkeypatch, capsys, "promote")
    assert code == 1
    assert "MLFLOW_TRACKING_URI" in said
    assert "secret" not in said
    assert len(said.splitlines()) == 1


# --- a person who changes their mind ---


def test_an_interrupted_command_says_how_to_go_on(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("deid.params.load_params", interrupt)
    code, said = deid(monkeypatch, capsys, "promote")
    assert code == 130
    assert said == "deid: interrupted; run the same command again to resume\n"


def test_a_damaged_record_of_the_registration_is_named_to_the_retraining(registry: Path) -> None:
    from flows.retrain import REGISTERED

    metrics, bundle = metrics_file(registry / "metrics.json"), small_bundle(registry / "bundle")
    record = registry / REGISTERED
    done = register(RegisterParams(), bundle, metrics, record)
    whole = record.read_bytes()
    for change in (cut, Path.unlink, write(b"[]"), write(b"{}"), into_folder):
        record.write_bytes(whole)
        assert standing(REGISTERED) == done
        change(record)
        with pytest.raises(DeidError, match=r"registered\.json: .*run `dvc repro -f register`"):
            standing(REGISTERED)
