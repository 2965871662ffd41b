"""Postgres for runs and registry, S3 for artifacts, a server before both: by environment alone."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from deid.registry import promotion
from deid.registry.choice import chosen
from deid.registry.files import files_state
from deid.registry.moves import history
from deid.tracking import mlflow_client
from tests.servers import free_port, listens, s3, service, wait_until
from tests.toy_registry import BETTER, Model

__all__ = ["s3"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def postgres_programs() -> Path | None:
    """Where `initdb` and `postgres` are: Debian keeps them off the path."""
    found = shutil.which("initdb") or shutil.which("postgres")
    return Path(found).resolve().parent if found else None


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database on loopback, with a password."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("no `postgres` here; Debian: apt-get install postgresql")
    port, log = free_port(), tmp_path_factory.mktemp("log") / "postgres.log"
    owner = {"user": "postgres"} if os.getuid() == 0 else {}  # it refuses to run as root
    with tempfile.TemporaryDirectory(prefix="deid-postgres-") as place:
        if owner:
            shutil.chown(place, "postgres")
        data, secret = f"{place}/data", Path(place, "password")
        secret.write_text("s3cret")
        secret.chmod(0o644)
        words = ["--username=deid", f"--pwfile={secret}", "--auth=scram-sha-256", "--no-sync"]
        made = [str(programs / "initdb"), "--pgdata", data, *words]
        done = subprocess.run(made, capture_output=True, text=True, cwd=place, **owner)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stderr
        begin = [str(programs / "postgres"), "-D", data, "-p", str(port), "-h", "127.0.0.1"]
        with service([*begin, "-k", place, "-F"], log, cwd=place, **owner) as process:
            wait_until(lambda: listens(process, port), 60, f"Postgres listens; {log}")
            yield f"postgresql://deid:s3cret@127.0.0.1:{port}/postgres"


@pytest.fixture(params=["database", "server"])
def remote(
    request: pytest.FixtureRequest,
    postgres: str,
    s3: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Path]:
    """Runs and registry on Postgres, artifacts on S3; asked directly, or a server before both."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", os.environ["AWS_ENDPOINT_URL_S3"])
    (s3 / request.param).mkdir()
    if request.param == "database":
        monkeypatch.setenv("DEID_ARTIFACTS", f"s3://{request.param}/runs")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres)
        yield s3
        return
    port, log = free_port(), tmp_path / "server.log"
    words = ["server", "--backend-store-uri", postgres, "--port", str(port), "--workers", "1"]
    words += ["--artifacts-destination", f"s3://{request.param}/runs"]
    quiet = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")  # on a machine that has other work
    with service([sys.executable, "-m", "mlflow", *words], log, env=quiet) as process:
        wait_until(lambda: listens(process, port), 600, f"MLflow listens; {log}")
        yield s3


def test_a_registry_elsewhere_is_promoted_rolled_back_fetched_once_and_repaired(
    remote: Path, tmp_path: Path
) -> None:
    model = Model(tmp_path / f"face-deid-{os.environ['MLFLOW_TRACKING_URI'][:4]}")
    model.folder.mkdir()
    first = model.register(1.0)
    model.register(2.0, **BETTER)
    assert "version 2 is champion; version 1 is previous" in promotion.promote(model.params)
    promotion.rollback(model.params)
    assert model.aliases() == {"champion": 1}
    client, name = mlflow_client(), model.params.model
    assert [move.what for move in history(client, name)] == ["promote", "promote", "rollback"]
    assert name not in {
        m.name for m in client.search_registered_models() if m.name.endswith("lock")
    }

    found = chosen("champion", name, model.folder)
    assert found.content_sha256 == first.content_sha256
    kept = tmp_path / "cache/deid/models" / found.content_sha256
    assert found.bundle.stage_one.is_relative_to(kept)
    stamp = kept.stat().st_mtime_ns
    assert chosen("champion", name, model.folder).bundle.stage_one.is_relative_to(kept)
    assert kept.stat().st_mtime_ns == stamp

    version = client.get_model_version(name, "1")
    assert files_state(client, version) == "stored"
    (lost,) = [p for p in remote.rglob("model") if str(version.run_id) in str(p)]
    bucket = boto3.resource("s3").Bucket(lost.relative_to(remote).parts[0])
    bucket.objects.filter(Prefix=lost.relative_to(remote / bucket.name).as_posix()).delete()
    assert files_state(client, version) == "gone"
    assert model.register(1.0).version == 1
    assert files_state(client, version) == "stored"
    assert not (Path.cwd() / "mlflow.db").exists()
    assert not (Path.cwd() / "mlartifacts").exists()
