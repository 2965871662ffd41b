"""The flows as a platform team runs them: real server, worker and bucket; and what kills them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import httpx
import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
import yaml
from PIL import Image

from deid.batch.manifest import Records
from deid.params import RegisterParams
from deid.registry import promotion
from deid.storage.locations import open_storage
from deid.storage.protocol import Storage
from tests.conftest import ROOT
from tests.servers import free_port, listens, s3, service, wait_until
from tests.test_flows import PREFECT, make_project, run

__all__ = ["s3"]  # a fixture
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

OVER = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
PICTURES = 1200  # so many that a run lasts long enough to be killed


class Server:
    """A Prefect server on loopback with a home of its own, that can be ended and started again."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.environment = os.environ | {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            "DO_NOT_TRACK": "1",
            "DEID_PROJECT": str(Path.cwd()),
            "OMP_NUM_THREADS": "1",
        }

    @contextmanager
    def up(self) -> Iterator[None]:
        command = [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        with service(command, self.home / "server.log", env=self.environment) as process:
            wait_until(lambda: self.is_up(process), 400, f"Prefect's server answers; {self.home}")
            yield

    def is_up(self, process: "subprocess.Popen[bytes]") -> bool:
        return listens(process, self.port) and self.get("health") is True

    def get(self, path: str) -> Any:
        return httpx.get(f"{self.url}/{path}", timeout=120).json()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return httpx.post(f"{self.url}/{path}", json=body, timeout=120).json()

    def make_pool(self) -> None:
        command = ("prefect", "work-pool", "create", "deid", "--type", "process")
        run(*command, environment=self.environment)

    def deploy(self, **changes: dict[str, Any]) -> None:
        """prefect.yaml, with `changes` for the deployments of these names; no others."""
        config = yaml.safe_load((ROOT / "prefect.yaml").read_text())
        kept = [entry for entry in config["deployments"] if entry["name"] in changes]
        for entry in kept:
            parameters = entry["parameters"] | changes[entry["name"]].pop("parameters", {})
            entry |= changes[entry["name"]] | {"parameters": parameters}
        config["deployments"] = kept
        Path("prefect.yaml").write_text(yaml.safe_dump(config))
        run("prefect", "--no-prompt", "deploy", "--all", environment=self.environment)

    @contextmanager
    def worker(self, name: str) -> Iterator["subprocess.Popen[bytes]"]:
        command = [*PREFECT, "worker", "start", "--pool", "deid", "--name", name]
        with service(command, self.home / f"{name}.log", env=self.environment) as process:
            yield process

    def started(self, deployment: str) -> str:
        """Start a run of a deployment now; its id."""
        name = {"hourly": "deidentify"}.get(deployment, "retrain")
        found = self.get(f"deployments/name/{name}/{deployment}")
        assert "id" in found, found
        made: dict[str, Any] = {}

        def is_made() -> bool:  # a busy server answers 503 now and then
            made.update(self.post(f"deployments/{found['id']}/create_flow_run", {}))
            return "id" in made

        wait_until(is_made, 60, f"a run of {deployment}: {made}")
        return str(made["id"])

    def state(self, flow_run: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"flow_runs/{flow_run}")["state"]
        return found

    def ended(self, flow_run: str) -> dict[str, Any]:
        """The state in which a run ended."""
        wait_until(
            lambda: self.state(flow_run)["type"] in OVER, 900, f"{flow_run} ends; {self.home}"
        )
        return self.state(flow_run)

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        body = {"deployments": {"name": {"any_": [deployment]}}}
        found: list[dict[str, Any]] = self.post("flow_runs/filter", body)
        return found


@pytest.fixture
def prefect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A project to work in, and a server for it that is not started yet."""
    project = tmp_path / "project"
    project.mkdir()
    make_project(project, monkeypatch)
    home = tmp_path / "home"
    home.mkdir()
    return Server(home)


def soon(seconds: int) -> dict[str, Any]:
    """A schedule that begins in so many seconds."""
    begin = datetime.now(UTC) + timedelta(seconds=seconds)
    return {"interval": 120, "anchor_date": begin.isoformat()}


def origin(storage: Storage, name: str) -> str:
    line = Records(storage).last(name) or {}
    return str((line.get("origin") or {}).get("version", line.get("status", "none")))


def test_pictures_in_a_bucket_become_safe_with_the_best_model_there_is(
    prefect: Server, s3: Path
) -> None:
    for bucket in ("inbox", "safe"):
        boto3.client("s3").create_bucket(Bucket=bucket)
    inbox, safe = open_storage("s3://inbox/new"), open_storage("s3://safe/out")
    pair, close, friends = (
        (ROOT / f"data/samples/{name}.png").read_bytes() for name in ("pair", "close", "friends")
    )
    originals = {"a.png": pair, "b/c.png": close}
    for name, data in originals.items():
        inbox.write(name, data)
    place = {"source": "s3://inbox/new", "destination": "s3://safe/out"}
    settings = place | {"method": "mask", "rendered": True}
    with prefect.up():
        prefect.make_pool()
        drift = {"parameters": {"batches": ["s3://safe/out"]}}
        prefect.deploy(nightly={"schedules": []}, **{"on-drift": drift})
        with prefect.worker("one"):
            assert prefect.ended(prefect.started("nightly"))["type"] == "COMPLETED"
            prefect.deploy(hourly={"parameters": settings, "schedules": [soon(5)]})
            # Nobody starts it.
            wait_until(lambda: origin(safe, "a.png") == "1", 900, "the schedule picks them up")
            (Path("value.txt")).write_text("2 0.22")
            assert prefect.ended(prefect.started("nightly"))["type"] == "COMPLETED"
            inbox.write("later.png", friends)
            wait_until(lambda: origin(safe, "later.png") == "2", 900, "the better model takes over")
            (Path("value.txt")).write_text("3 0.9")
            refused = prefect.ended(prefect.started("nightly"))
            wait_until(lambda: any_over(prefect, "on-drift"), 600, "a finished batch starts it")
            by_itself = [r for r in prefect.runs("hourly") if r["auto_scheduled"]]
            told = run("deid.cli", "flows", "status", environment=prefect.environment, code=1)
    assert refused["type"] == "FAILED"
    assert "max_id_similarity" in refused["message"]
    assert promotion.champion_version(RegisterParams().model) == 2
    assert origin(safe, "a.png") == "1", "what was done before stays"
    assert {name: inbox.read(name) for name in originals} == originals, "originals stay"
    assert all(safe.read(name) != data for name, data in originals.items())
    run("deid.cli", "audit", "verify", "s3://safe/out", environment=prefect.environment)
    assert by_itself
    for word in ("nightly", "hourly", "failed", "max_id_similarity", "next"):
        assert word in told


def any_over(prefect: Server, deployment: str) -> bool:
    return any(run["state_type"] == "COMPLETED" for run in prefect.runs(deployment))


def noise(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04d}.png")


def test_a_run_outlives_its_server_and_its_worker_and_a_cancelled_one_resumes(
    prefect: Server,
) -> None:
    noise(Path("data/inbox"), PICTURES)
    out = Path("out/inbox")
    settings = {"method": "mask", "rendered": True, "allow_no_face": True, "shard_size": 50}
    automations = yaml.safe_load((ROOT / "automations.yaml").read_text())
    automations["automations"][0]["trigger"]["within"] = 120  # longer than a restart takes
    Path("automations.yaml").write_text(yaml.safe_dump(automations))

    def done() -> int:
        return len(list(out.glob("*.png")))

    with prefect.up():
        prefect.make_pool()
        prefect.deploy(hourly={"parameters": settings, "schedules": []})
        run(
            "prefect",
            "automation",
            "create",
            "--from-file",
            "automations.yaml",
            environment=prefect.environment,
        )
        with prefect.worker("cancelled"):
            cancelled = prefect.started("hourly")
            wait_until(lambda: done() > 20, 600, "it is at work")
            body = {"state": {"type": "CANCELLING"}}
            prefect.post(f"flow_runs/{cancelled}/set_state", body)
            assert prefect.ended(cancelled)["type"] == "CANCELLED"
        assert 20 < done() < PICTURES
        with prefect.worker("killed") as worker:
            flow_run = prefect.started("hourly")
            before = done()
            wait_until(lambda: done() > before + 20, 600, "it goes on")
            family = psutil.Process(worker.pid).children(recursive=True)
            worker.kill()
            for member in family:
                with suppress(psutil.NoSuchProcess):
                    member.kill()
            assert done() < PICTURES
        assert prefect.state(flow_run)["type"] == "RUNNING", "nobody said that it is dead"
        wait_until(
            lambda: prefect.state(flow_run)["type"] == "SCHEDULED", 300, "its silence is noticed"
        )
        worker_two = prefect.worker("second")
        worker_two.__enter__()
        before = done()
        wait_until(lambda: done() > before + 20, 600, "another worker takes it up")
    # The server is down now, in the middle of the run.
    with prefect.up():
        ended = prefect.ended(flow_run)
        if ended["type"] == "CRASHED":  # with its memory the server lost the run's slot
            ended = prefect.ended(prefect.started("hourly"))
        worker_two.__exit__(None, None, None)
    assert ended["type"] == "COMPLETED", ended
    assert done() == PICTURES
    run("deid.cli", "audit", "verify", str(out), environment=prefect.environment)


def test_a_command_ends_with_the_process_that_asked_for_it(tmp_path: Path) -> None:
    mark = tmp_path / "beat"
    beat = f"import time, pathlib\nwhile True: pathlib.Path({str(mark)!r}).touch(); time.sleep(0.1)"
    lock = tmp_path / "lock"
    program = (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-m', 'flows.guard', sys.argv[1], *sys.argv[2:]],"
        " stdin=subprocess.PIPE, start_new_session=True)\n"
        "time.sleep(600)\n"
    )
    caller = subprocess.Popen(
        [sys.executable, "-c", program, str(lock), sys.executable, "-c", beat], cwd=ROOT
    )
    wait_until(mark.exists, 60, "it beats")
    caller.send_signal(signal.SIGKILL)
    caller.wait()

    def still() -> bool:
        before = mark.stat().st_mtime
        time.sleep(1)
        return mark.stat().st_mtime == before

    wait_until(still, 60, "it ends")
    command = [sys.executable, "-m", "flows.guard", str(lock), "true"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE) as done:
        assert done.wait(60) == 0, "no stale lock"
