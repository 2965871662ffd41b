"""The code of a registered version: encoded pictures in, encoded pictures without identities out.

MLflow copies this file into each version and runs it when the version is loaded; everything that
it calls comes from the installed `deid` package, everything that it reads from the version itself.
It fails closed: one picture that cannot be made safe fails its request, and nothing is returned.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc.model import PythonModel

from deid.batch.manifest import Records
from deid.batch.pipeline import Pipeline
from deid.batch.project import open_pipeline
from deid.batch.run import deidentify_path
from deid.batch.settings import RunSettings
from deid.errors import DeidError
from deid.registry.bundle import read_bundle
from deid.storage.local import LocalStorage


class FaceDeid(PythonModel):
    """One column `image` in; `image`, `faces` (how many) and `verdict` out, row for row.

    Parameters: `method`, `seed`, `allow_no_face`, without which a picture in which no face is found
    is an error, and `first_frame_only`, without which one of several frames is. `verdict` is
    verified, masked (some face had to be) or no face.
    """

    def load_context(self, context: Any) -> None:
        self.bundle = read_bundle(Path(context.artifacts["bundle"]))
        self._pipelines: dict[RunSettings, Pipeline] = {}

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None
    ) -> pd.DataFrame:
        pipeline = self._pipeline(params or {})
        pictures = [bytes(data) for data in model_input["image"]]
        with tempfile.TemporaryDirectory() as scratch:
            source, destination = Path(scratch) / "in", Path(scratch) / "out"
            source.mkdir()
            names = [f"{row:06d}.png" for row in range(len(pictures))]  # any format: decoded as is
            for name, data in zip(names, pictures, strict=True):
                (source / name).write_bytes(data)
            deidentify_path(source, destination, pipeline)
            records = Records(LocalStorage(destination))
            rows = [_row(records.last(name), destination, n) for n, name in enumerate(names)]
        return pd.DataFrame(rows, columns=["image", "faces", "verdict"])

    def _pipeline(self, params: Mapping[str, Any]) -> Pipeline:
        asked = RunSettings(
            method=str(params.get("method", "swap")),
            seed=int(params.get("seed", 0)),
            allow_no_face=bool(params.get("allow_no_face", False)),
            first_frame_only=bool(params.get("first_frame_only", False)),
        )
        if asked not in self._pipelines:
            self._pipelines = {asked: open_pipeline(self.bundle, asked)}
        return self._pipelines[asked]


def _row(record: Mapping[str, Any] | None, destination: Path, number: int) -> tuple[Any, ...]:
    if record is None or record["status"] != "written":
        reason = "no record of it" if record is None else record["reason"]
        raise DeidError(f"picture {number}: withheld, {reason}")
    verdicts = {face["verdict"] for face in record["faces"]}
    worst = next((v for v in ("masked", "verified") if v in verdicts), "no face")
    return (destination / record["output"]).read_bytes(), len(record["faces"]), worst


mlflow.models.set_model(FaceDeid())
