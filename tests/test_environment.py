"""A registered version in an environment that was made from nothing but its own requirements."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deid.params import WorldParams
from deid.registry.files import local_files
from deid.registry.register import register
from deid.tracking import mlflow_client
from tests.conftest import ROOT
from tests.toy_registry import Model, make_bundle, model, store, write_metrics

__all__ = ["model", "store"]

CODE = """
import sys, mlflow, pandas as pd
from pathlib import Path

model = mlflow.pyfunc.load_model(sys.argv[1])
import deid
assert Path(deid.__file__).is_relative_to(Path(sys.argv[1])), deid.__file__
data = Path(sys.argv[2]).read_bytes()
got = model.predict(pd.DataFrame({"image": [data]}), params={"method": "mask"})
Path(sys.argv[3]).write_bytes(got["image"][0])
print(got["faces"][0], got["verdict"][0])
"""


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_version_serves_in_an_environment_made_from_its_requirements(
    model: Model, tmp_path: Path
) -> None:
    made = make_bundle(tmp_path / "made", 1.0)
    world = WorldParams(weights=ROOT / "data/mini/weights")
    bundle = replace(made, world=world)
    metrics = write_metrics(tmp_path / "metrics.json", bundle)
    register(model.params, bundle, metrics, tmp_path / "out.json")
    client = mlflow_client()
    folder = local_files(client, client.get_model_version(model.params.model, "1"))
    alone = tmp_path / "elsewhere/model"
    shutil.copytree(folder, alone)

    uv, venv = shutil.which("uv") or str(ROOT / ".uv/bin/uv"), tmp_path / "venv"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    python, asked = str(venv / "bin/python"), str(alone / "requirements.txt")
    install = ["pip", "install", "--quiet", "--python", python, "--requirement", asked]
    for words in (["venv", "--quiet", "--python", "3.11", str(venv)], install):
        done = subprocess.run([uv, *words], env=clean, capture_output=True, text=True)
        if "error sending request" in done.stderr or "dns error" in done.stderr:
            pytest.skip("no package index: " + done.stderr.splitlines()[-1])
        assert done.returncode == 0, done.stderr
    sample, out = ROOT / "data/samples/pair.png", tmp_path / "out.png"
    done = subprocess.run(
        [python, "-I", "-c", CODE, str(alone), str(sample), str(out)],
        cwd=tmp_path,
        env=clean,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-2:] == ["2", "masked"], done.stdout
    before, after = (np.asarray(Image.open(p).convert("RGB")) for p in (sample, out))
    assert (before != after).any(axis=-1).mean() > 0.02
