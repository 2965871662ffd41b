"""Flows: a batch loses and doubles nothing, gates rule a retraining, a real server runs both."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
import yaml

from deid.anonymize import METHODS, RIVALS
from deid.audit.seal import AUDIT_FILES, LEDGER, SEAL
from deid.batch import project
from deid.batch.executor import InProcess
from deid.batch.journal import is_unfinished, open_journal
from deid.batch.manifest import Records
from deid.batch.outcome import Task
from deid.batch.pipeline import Pipeline, build_pipeline
from deid.batch.plan import Locations, list_inputs, make_plan
from deid.batch.run import exclusive, finalize, recorded
from deid.batch.settings import BatchSettings, RunSettings
from deid.errors import DeidError
from deid.params import RegisterParams
from deid.registry import promotion
from deid.storage.local import LocalStorage
from deid.storage.locations import inside, open_storage
from deid.storage.protocol import PRIVATE, Storage, StorageFailure, is_safe
from deid.storage.s3 import S3Storage
from tests.servers import free_port, listens, s3, service, wait_until
from tests.test_serve import picture
from tests.toy import toy_world

ROOT = Path(__file__).resolve().parent.parent
__all__ = ["s3"]  # a fixture

PREFECT = [sys.executable, "-m", "prefect"]
OVER = ("COMPLETED", "FAILED", "CRASHED")

Address = Callable[[str], str]
"""Name of a place → its location, fresh for each test."""


@pytest.fixture(params=["folder", "s3"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Address:
    if request.param == "folder":
        return lambda name: str(tmp_path / name)
    served: Path = request.getfixturevalue("s3")
    bucket = f"{tmp_path.name}-{served.name}".replace("_", "-")[-60:]
    boto3.client("s3").create_bucket(Bucket=bucket)
    return lambda name: f"s3://{bucket}/deep/{name}"


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return build_pipeline(RunSettings(method="mask"), toy_world(), None)


def test_what_is_written_is_listed_and_read_until_deleted(places: Address) -> None:
    storage = open_storage(places("a"))
    assert storage.list() == {}
    written = {name: storage.write(name, name.encode()) for name in ("z.png", "b/ä ö.png", "b/c")}
    assert storage.list() == dict(sorted(written.items()))
    assert set(storage.list("b/")) == {"b/ä ö.png", "b/c"}
    assert storage.read("b/ä ö.png") == "b/ä ö.png".encode()
    assert storage.write("b/c", b"other") != written["b/c"]
    storage.delete("b/c")
    storage.delete("b/c")
    assert set(storage.list()) == {"z.png", "b/ä ö.png"}
    assert open_storage(places("other")).list() == {}


@pytest.mark.parametrize("name", ["../x", "/x", "a/../x", "a//b", ".", "", "a/./b"])
def test_no_name_leads_out_of_its_folder(name: str, tmp_path: Path) -> None:
    assert not is_safe(name)
    with pytest.raises(DeidError, match="not a plain name"):
        LocalStorage(tmp_path / "in").write(name, b"")
    assert list(tmp_path.rglob("*")) == []


def test_a_bucket_that_is_missing_or_forbidden_is_a_clear_error(
    s3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DeidError, match="s3://no-such-bucket/"):
        S3Storage("no-such-bucket", "").list()
    boto3.client("s3").create_bucket(Bucket="closed")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(DeidError, match=r"s3://closed/: .*SignatureDoesNotMatch"):
        S3Storage("closed", "").list()
    with pytest.raises(DeidError, match="no bucket"):
        open_storage("s3:///x")


@pytest.mark.parametrize(
    ("inner", "outer", "expected"),
    [
        ("in", "out", None),
        ("in/out", "in", "out"),
        ("in", "in/out", None),
        ("s3://b/in", "s3://b/in", ""),
        ("s3://b/in2", "s3://b/in", None),
        ("s3://b/out", "s3://b", "out"),
        ("s3://b/in", "in", None),
    ],
)
def test_a_destination_inside_the_originals_is_seen(
    inner: str, outer: str, expected: str | None
) -> None:
    assert inside(inner, outer) == expected


def lines_of(storage: Storage) -> dict[str, dict[str, Any]]:
    text = storage.read("manifest.jsonl").decode().splitlines()
    lines = [json.loads(line) for line in text]
    assert len({line["file"] for line in lines}) == len(lines)
    return {line["file"]: line for line in lines}


def contents(storage: Storage) -> dict[str, bytes]:
    """What a batch leaves, without what tells when, and without what only later batches read."""
    names = [n for n in storage.list() if not n.startswith(PRIVATE) and n not in (LEDGER, SEAL)]
    return {name: storage.read(name) for name in names}


def run_batch(source: Storage, destination: Storage, shop: Pipeline, size: int = 2) -> int:
    """A whole batch in shards, without Prefect; returns how many inputs were not done before."""
    places = Locations(source, destination, destination)
    with exclusive(places), InProcess(shop, places) as executor:
        records = Records(destination)
        planned = make_plan(places, list_inputs(places), records, executor.info)
        ended = len(list(recorded(iter(planned.refusals), records)))
        tasks = list(planned.tasks(records))
        for start in range(0, len(tasks), size):
            shard = executor.work(iter(tasks[start : start + size]))
            ended += len(list(recorded(shard, open_journal(destination))))
        finalize(places, Records(destination))
    assert ended + planned.known == planned.inputs
    return ended


def test_every_input_ends_in_exactly_one_state(places: Address, pipeline: Pipeline) -> None:
    source, destination = open_storage(places("in")), open_storage(places("out"))
    originals = {"a.png": picture(1), "b/a.png": picture(2), "b/c.png": picture(3)}
    others = {"broken.jpg": b"junk", "notes.txt": b"text"}
    for name, data in (originals | others).items():
        source.write(name, data)
    assert run_batch(source, destination, pipeline) == 5
    lines = lines_of(destination)
    states = {name: line["status"] for name, line in lines.items()}
    assert states == dict.fromkeys(originals, "written") | {
        "broken.jpg": "quarantined",
        "notes.txt": "skipped",
    }
    assert set(contents(destination)) == {*originals, *AUDIT_FILES} - {LEDGER, SEAL}
    assert all(destination.read(name) != data for name, data in originals.items())
    assert {name: source.read(name) for name in source.list()} == originals | others


def test_shard_size_changes_no_byte(places: Address, pipeline: Pipeline) -> None:
    source = open_storage(places("in"))
    for n in range(5):
        source.write(f"{n}.png", picture(n))
    one, other = open_storage(places("one")), open_storage(places("other"))
    run_batch(source, one, pipeline, size=5)
    run_batch(source, other, pipeline, size=2)
    assert contents(one) == contents(other)


def test_a_second_batch_does_only_what_changed(places: Address, pipeline: Pipeline) -> None:
    source, destination = open_storage(places("in")), open_storage(places("out"))
    for n in range(3):
        source.write(f"{n}.png", picture(n))
    run_batch(source, destination, pipeline)
    listed, before = destination.list(), contents(destination)
    assert run_batch(source, destination, pipeline) == 0
    assert contents(destination) == before
    assert all(destination.list()[name] == listed[name] for name in before if ".png" in name)
    source.write("1.png", picture(9))
    source.write("3.png", picture(3))
    destination.delete("2.png")
    assert run_batch(source, destination, pipeline) == 3
    after = contents(destination)
    assert destination.list()["0.png"] == listed["0.png"]
    assert after["1.png"] != before["1.png"]
    assert after["2.png"] == before["2.png"]


def test_a_batch_killed_between_shards_resumes(places: Address, pipeline: Pipeline) -> None:
    source, destination = open_storage(places("in")), open_storage(places("out"))
    for n in range(4):
        source.write(f"{n}.png", picture(n))
    where = Locations(source, destination, destination)
    with InProcess(pipeline, where) as executor:
        records = Records(destination)
        tasks = list(make_plan(where, list_inputs(where), records, executor.info).tasks(records))
        list(recorded(executor.work(iter(tasks[:2])), open_journal(destination)))
        # As if killed after the outputs of the second shard, before its record.
        list(executor.work(iter(tasks[2:])))
    assert "manifest.jsonl" not in destination.list()
    assert run_batch(source, destination, pipeline) == 2
    whole = open_storage(places("whole"))
    run_batch(source, whole, pipeline)
    assert contents(destination) == contents(whole)


def test_an_output_does_not_outlive_its_original(places: Address, pipeline: Pipeline) -> None:
    source, destination = open_storage(places("in")), open_storage(places("out"))
    source.write("a.png", picture(1))
    run_batch(source, destination, pipeline)
    source.write("a.png", b"junk")
    run_batch(source, destination, pipeline)
    assert lines_of(destination)["a.png"]["status"] == "quarantined"
    assert set(contents(destination)) == set(AUDIT_FILES) - {LEDGER, SEAL}


def test_another_file_at_the_destination_is_not_overwritten(
    places: Address, pipeline: Pipeline
) -> None:
    source, destination = open_storage(places("in")), open_storage(places("out"))
    source.write("a.png", picture(1))
    destination.write("a.png", b"somebody's")
    run_batch(source, destination, pipeline)
    assert destination.read("a.png") == b"somebody's"
    assert "another file" in lines_of(destination)["a.png"]["reason"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real Prefect server on loopback with a home of its own; yields its environment."""
    home, port = tmp_path_factory.mktemp("prefect"), free_port()
    environment = {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_SCHEDULER_MAX_RUNS": "4",
        "DO_NOT_TRACK": "1",
    }
    command = [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]

    def healthy(process: "subprocess.Popen[bytes]") -> bool:
        return (
            listens(process, port)
            and httpx.get(f"{environment['PREFECT_API_URL']}/health", timeout=60).is_success
        )

    with service(command, home / "server.log", env=os.environ | environment) as process:
        wait_until(lambda: healthy(process), 300, f"Prefect's server answers; {home}/server.log")
        yield environment


@pytest.fixture
def here(server: dict[str, str]) -> Iterator[None]:
    """Flows called in this process report to that server."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: server["PREFECT_API_URL"]}):
        yield
        EventsWorker.drain_all()  # or they look for the server long after it is gone
        APILogWorker.drain_all()


@pytest.mark.timeout(1200)
def test_a_shard_that_fails_leaves_the_others_alone(
    here: None, s3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import deidentify as module

    make_project(tmp_path, monkeypatch)

    def in_process(open_: Any, places: Locations, *_: Any) -> InProcess:  # to be broken below
        shop = build_pipeline(RunSettings(method="mask"), toy_world(), None)
        return InProcess(shop, places)

    monkeypatch.setattr(project, "ProcessPool", in_process)
    boto3.client("s3").create_bucket(Bucket="flow")
    source, destination = LocalStorage(tmp_path / "in"), open_storage("s3://flow/out")
    for n in range(4):
        source.write(f"{n}.png", picture(n))
    put, broken = S3Storage.replace, ["2.png"]

    def faulty(self: S3Storage, name: str, data: bytes, version: str | None) -> str:
        if name in broken:
            raise StorageFailure(f"{name}: Input/output error")
        return put(self, name, data, version)

    monkeypatch.setattr(S3Storage, "replace", faulty)
    twice = module.deidentify_shard.with_options(retries=1, retry_delay_seconds=0)
    monkeypatch.setattr(module, "deidentify_shard", twice)
    run_flow = partial(module.deidentify, method="mask", shard_size=1, rendered=True)
    with pytest.raises(DeidError, match=r"1 of 4 shards failed.*Input/output error"):
        run_flow("in", "s3://flow/out")
    assert Records(destination).names() == {"0.png", "1.png", "3.png"}
    assert is_unfinished(destination)
    broken.clear()
    assert run_flow("in", "s3://flow/out") == {"written": 1, "done": 3}
    assert set(lines_of(destination)) == {f"{n}.png" for n in range(4)}
    with pytest.raises(DeidError, match="holds the originals"):
        run_flow("in/deeper", "in")
    with pytest.raises(DeidError, match="elsewhere: no such file or folder"):
        run_flow("elsewhere", "s3://flow/out")


STAGE = '''
"""A pipeline in two small stages: networks that hold one number, and figures from a file."""
import json, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
from deid.params import load_params
from deid.batch.project import local_bundle
from deid.registry.register import register
from deid.stage_files import content_of

value, similarity = map(float, Path("value.txt").read_text().split())
params = load_params()
if sys.argv[1] == "evaluate":
    for name in ("stage_one", "stage_two"):
        Path("data", name).mkdir(parents=True, exist_ok=True)
        save_file({"w": np.full(4, value, np.float32)}, f"data/{name}/model.safetensors")
    Path("reports").mkdir(exist_ok=True)
    # A better swap each time: an equal challenger is not promoted.
    figures = {
        "id_similarity_selecting": similarity, "reidentification_selecting": 0.0,
        "detect_rate": 1.0, "source_id_loss": 0.05 - value / 1000,
        "fid": 1.0,
    }
    row = {name: {"mean": figure, "std": 0} for name, figure in figures.items()}
    stages = Path("data/stage_one"), Path("data/stage_two")
    content = {
        "measured": content_of(*stages, params.anonymize, params.world),
        "table1": {"adversarial": row}, "table2": {"swap": row},
    }
    Path("reports/metrics.json").write_text(json.dumps(content))
else:
    out = Path("data/registered.json")
    register(params.register_, local_bundle(params), Path("reports/metrics.json"), out)
'''

PIPELINE = {
    "stages": {
        "evaluate": {
            "cmd": "python stage.py evaluate",
            "deps": ["value.txt"],
            "outs": [
                "data/stage_one",
                "data/stage_two",
                {"reports/metrics.json": {"cache": False}},
            ],
        },
        "register": {
            "cmd": "python stage.py register",
            "deps": ["data/stage_one", "data/stage_two", "reports/metrics.json"],
            "outs": [{"data/registered.json": {"cache": False}}],
        },
    }
}


def make_project(folder: Path, monkeypatch: pytest.MonkeyPatch, value: str = "1 0.2") -> None:
    """A project with the real flows, registry and DVC, and networks that take no time to train."""
    weights = ROOT / "data/mini/weights"
    if not weights.is_dir():  # a checkout before `make pretrain`
        weights = folder / "weights"
        weights.mkdir()
        shutil.copyfile(ROOT / "profiles/mini.yaml", weights / "net.safetensors")
    params = yaml.safe_load((ROOT / "profiles/mini.yaml").read_text())
    params["world"]["weights"] = str(weights)
    params["register"]["gates"]["max_slowdown"] = None  # one number takes no time
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "stage.py").write_text(STAGE)
    (folder / "value.txt").write_text(value)
    (folder / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE))
    shutil.copytree(ROOT / "flows", folder / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (folder / ".dvc").mkdir()
    options = {"no_scm": "true", "analytics": "false", "check_update": "false"}
    text = "".join(f"    {name} = {value}\n" for name, value in options.items())
    (folder / ".dvc/config").write_text(f"[core]\n{text}")


def run(*command: str, environment: Mapping[str, str], code: int = 0) -> str:
    """What `python -m COMMAND`, in the current directory, printed."""
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, env=environment
    )
    assert done.returncode == code, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.timeout(1200)
def test_retraining_promotes_what_passes_and_says_why_it_does_not(
    here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.retrain import retrain

    make_project(tmp_path, monkeypatch)
    assert "version 1 is champion; nothing to promote" in retrain()
    (tmp_path / "value.txt").write_text("2 0.22")
    assert "version 2 is champion; version 1 is previous" in retrain()
    (tmp_path / "value.txt").write_text("3 0.9")
    with pytest.raises(DeidError, match=r"version 3 stays challenger: max_id_similarity: .* 0\.9"):
        retrain()
    assert promotion.champion_version(RegisterParams().model) == 2
    (tmp_path / "value.txt").write_text("nonsense")
    with pytest.raises(DeidError, match="dvc repro: exit code"):
        retrain()
    assert promotion.champion_version(RegisterParams().model) == 2


@pytest.mark.timeout(2400)  # a minute or two when nothing else runs
def test_a_server_runs_both_deployments_on_their_schedules(
    server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_project(tmp_path, monkeypatch)
    original = (ROOT / "data/samples/pair.png").read_bytes()
    LocalStorage(tmp_path / "data/inbox").write("one.png", original)
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    soon = (datetime.now(UTC) + timedelta(seconds=25)).isoformat()
    kept = [entry for entry in deployments["deployments"] if "schedules" in entry]
    deployments["deployments"] = kept
    assert [set(d["schedules"][0]) for d in kept] == [{"cron", "timezone"}, {"interval"}]
    for deployment in kept:
        # Again later, for a machine so busy that `soon` is over before all is deployed.
        deployment["schedules"] = [{"interval": 300, "anchor_date": soon}]
    deployments["deployments"][1]["parameters"] |= {"method": "mask"}
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump(deployments))
    environment = os.environ | server | {"PREFECT_WORKER_QUERY_SECONDS": "2"}
    environment["DEID_PROJECT"] = str(tmp_path)
    run("prefect", "work-pool", "create", "deid", "--type", "process", environment=environment)
    run("prefect", "--no-prompt", "deploy", "--all", environment=environment)
    api = httpx.Client(base_url=server["PREFECT_API_URL"], timeout=300)
    ended: dict[str, tuple[str, str]] = {}

    def both_ended() -> bool:
        for name in ("nightly", "hourly"):
            body = {"deployments": {"name": {"any_": [name]}}}
            runs = api.post("flow_runs/filter", json=body).json()
            assert all(run["auto_scheduled"] for run in runs)
            assert working.poll() is None, f"the worker ended; {tmp_path}/worker.log"
            for state in [run["state"] for run in runs if run["state_type"] in OVER]:
                ended[name] = (state["type"], str(state["message"]))
        return len(ended) == 2

    worker = [*PREFECT, "worker", "start", "--pool", "deid"]
    with api, service(worker, tmp_path / "worker.log", env=environment) as working:
        wait_until(both_ended, 1800, f"a scheduled run of each ends; {tmp_path}")
    assert {name: kind for name, (kind, _) in ended.items()} == {
        "nightly": "COMPLETED",
        "hourly": "COMPLETED",
    }, ended
    assert promotion.champion_version(RegisterParams().model) == 1
    assert (tmp_path / "out/inbox/one.png").read_bytes() != original


def test_git_overlooks_the_pictures_that_the_deployment_reads_and_writes() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    (given,) = [d["parameters"] for d in deployments if "source" in d["parameters"]]
    for folder in (given["source"], given["destination"]):
        asked = ["git", "check-ignore", "--quiet", f"{folder}/portrait.jpg"]
        assert subprocess.run(asked, cwd=ROOT).returncode == 0, folder


def test_the_flow_takes_what_the_command_line_takes() -> None:
    from flows.deidentify import deidentify
    from flows.form import parsed

    words = "in out --detector yunet --detector scrfd --recogniser foamliu --timeout 9"
    words += " --allow-no-face --first-frame-only --engine ray"
    given = vars(parsed(deidentify.fn, words.split()))
    assert given["first_frame_only"]
    assert given["detectors"] == ["yunet", "scrfd"]
    assert given["recognizers"] == ["foamliu"]
    assert (given["timeout"], given["allow_no_face"], given["method"]) == (9.0, True, "swap")


def test_the_form_of_the_flow_offers_what_the_command_line_takes() -> None:
    from flows.deidentify import deidentify

    form = deidentify.parameters.model_dump()["properties"]
    asked = {f.name for kind in (RunSettings, BatchSettings) for f in fields(kind) if f.metadata}
    assert set(form) == asked | {"source", "destination", "model", "world"}
    assert tuple(form["method"]["enum"]) == (*METHODS, *RIVALS)
    assert form["engine"]["enum"] == ["processes", "ray"]
    assert all(entry["description"] for entry in form.values())


def test_a_shard_is_named_by_its_files_and_their_versions() -> None:
    from flows.deidentify import Shard

    one, two = (Task(name, "1", name, None, None, None) for name in ("a.png", "b.png"))
    assert Shard([one, two]).name == Shard([one, two]).name
    assert Shard([one, two]).name != Shard([one, replace(two, version="2")]).name


def test_a_flow_run_that_ends_its_process_each_time_is_not_started_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from flows import deidentify as module

    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__RUN_COUNT", str(module.MOST_STARTS + 1))
    with pytest.raises(DeidError, match="was started 6 times and never ended"):
        module.deidentify.fn("in", "out")
