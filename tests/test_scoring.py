"""Servers and clients that are not ours: `mlflow models serve`, and schemathesis on our OpenAPI."""

import base64
import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from deid.batch.bundle import SETTINGS, WEIGHTS
from deid.batch.project import bundle_at
from deid.registry.bundle import settings_of
from tests.conftest import ROOT
from tests.servers import free_port, listens, service, wait_until
from tests.serving import PAIR, pixels, serving

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent
KNOWN = {200, 400, 401, 404, 405, 408, 413, 415, 422, 429, 503}


@pytest.fixture(scope="module")
def scoring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MLflow's own server of the mini world; its address."""
    from deid.registry.packaging import save_pyfunc

    folder, port = tmp_path_factory.mktemp("scoring"), free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # Without trained stages, which no checkout has: pixelate needs none.
        bundle = bundle_at(ROOT, "mini")
        shutil.copytree(ROOT / bundle.world.weights, folder / "bundle" / WEIGHTS)
        (folder / "bundle" / SETTINGS).write_bytes(settings_of(bundle))
        save_pyfunc(folder / "bundle", folder / "model")
    command = [str(BIN / "mlflow"), "models", "serve", "-m", str(folder / "model")]
    command += ["--env-manager", "local", "--port", str(port), "--workers", "1"]
    environment = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    with service(command, folder / "log", cwd=folder, env=environment) as process:
        wait_until(lambda: listens(process, port), 300, "mlflow models serve")
        yield f"http://127.0.0.1:{port}"


def test_mlflow_serves_what_deid_makes_to_its_client_and_to_curl(
    scoring: str, tmp_path: Path
) -> None:
    data = base64.b64encode(PAIR.read_bytes()).decode()
    body = {
        "dataframe_split": {"columns": ["image"], "data": [[data]]},
        "params": {"method": "pixelate"},
    }
    (tmp_path / "body.json").write_text(json.dumps(body))
    command = ["curl", "-sS", "--fail", "-H", "Content-Type: application/json"]
    command += ["--retry", "30", "--retry-connrefused", "--retry-delay", "2"]
    command += ["-d", f"@{tmp_path / 'body.json'}", f"{scoring}/invocations"]
    (row,) = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)[
        "predictions"
    ]
    assert (row["faces"], row["verdict"], row["level"]) == (2, "verified", 1)
    assert len(json.loads(row["similarities"])) == 2
    before, after = pixels(PAIR.read_bytes()), pixels(base64.b64decode(row["image"]))
    for x0, y0, x1, y1 in ((189, 15, 247, 93), (71, 116, 136, 195)):
        assert (before[y0:y1, x0:x1] != after[y0:y1, x0:x1]).mean() > 0.5
    assert np.array_equal(before[:8, :60], after[:8, :60])

    import pandas as pd
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    port = scoring.rpartition(":")[2]
    frame = pd.DataFrame({"image": [data]})
    answer = ScoringServerClient("127.0.0.1", int(port)).invoke(frame, params=body["params"])
    assert answer.get_predictions().to_dict("records") == [row]
    bad = body | {"dataframe_split": {"columns": ["image"], "data": [["bm8gcGljdHVyZQ=="]]}}
    refused = httpx.post(f"{scoring}/invocations", json=bad, timeout=60)
    assert refused.status_code == 400
    assert "Traceback" not in refused.text


def test_schemathesis_finds_no_answer_that_is_not_documented(tmp_path: Path) -> None:
    limits = ("--receive", "2", "--detect-size", "64", "--max-pixels", "20000", "--method", "mask")
    with serving(tmp_path, *limits) as server:
        with urllib.request.urlopen(f"{server.url}openapi.json") as answer:
            (tmp_path / "openapi.json").write_bytes(answer.read())
        command = [str(BIN / "schemathesis"), "run", str(tmp_path / "openapi.json")]
        command += ["--url", server.url.rstrip("/"), "--max-examples", "20", "--seed", "1"]
        command += ["--checks", "not_a_server_error,status_code_conformance"]
        command += ["--checks", "content_type_conformance,response_schema_conformance"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stdout[-6000:]
        lines = [line for line in server.lines() if line["message"] == "request"]
        assert len(lines) > 50
        assert {line["status"] for line in lines} <= KNOWN
        assert not [line for line in server.lines() if line["level"] == "error"]
