"""The code of a registered version: encoded pictures in, encoded pictures without identities out.

MLflow copies this file into each version and runs it when the version is loaded; everything that
it calls and everything that it reads comes from the version itself, but for public packages.
It fails closed: one picture that cannot be made safe fails its request, and nothing is returned.
"""

import base64
import binascii
import json
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel

from deid.batch.in_memory import Result, deidentify_bytes
from deid.batch.project import Pipelines
from deid.batch.settings import METHODS, RunSettings
from deid.errors import DeidError
from deid.registry.bundle import read_bundle
from deid.registry.packaging import PARAMETERS
from deid.secret import VARIABLE, NoKey

log = logging.getLogger(__name__)


class FaceDeid(PythonModel):
    """One column `image` in, bytes or base64 of an encoded picture; out, row for row: `image`,
    `faces` (how many), `verdict`, `similarities` and `level`.

    `verdict` is verified, masked (some face had to be) or no face; `level` is how many fallback
    levels were tried at most (1: the method itself); `similarities` is JSON, for each face the
    cosine of original and output in each recognizer. Parameters: `deid.registry.packaging`. A
    swap gives pseudonyms where `DEID_KEY_FILE` names the server's key.
    """

    def load_context(self, context: Any) -> None:
        self._pipelines = Pipelines(read_bundle(Path(context.artifacts["bundle"])))
        self._lock = threading.Lock()  # pictures side by side in one process only share its cores

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None
    ) -> pd.DataFrame:
        try:
            asked = _settings(params or {})
            with self._lock:
                pipeline = self._pipelines.get(asked)
                rows = [
                    _row(deidentify_bytes(pipeline, _bytes(data, number), f"picture {number}"))
                    for number, data in enumerate(model_input["image"])
                ]
        except NoKey as error:  # the server's to fix: callers are not told where its key lies
            log.error("%s", error)
            raise MlflowException("withheld: the key of this server cannot be read") from None
        except DeidError as error:  # the caller's to fix: answered without a traceback
            raise MlflowException(f"withheld: {error}", INVALID_PARAMETER_VALUE) from None
        return pd.DataFrame(rows, columns=["image", "faces", "verdict", "similarities", "level"])


def _settings(params: Mapping[str, Any]) -> RunSettings:
    kinds: dict[str, Any] = {name: type(default) for name, _, default in PARAMETERS}
    asked = {name: kinds[name](value) for name, value in params.items()}
    detectors = tuple(filter(None, str(asked.pop("detector", "")).split(",")))
    if files := [spec for spec in detectors if "=" in spec]:
        raise DeidError(f"detector {files[0]!r}: a request names no files; name a detector alone")
    settings = RunSettings(detectors=detectors, **asked)
    if settings.method.partition("-")[0] not in METHODS:
        known = ", ".join(METHODS)
        raise DeidError(f"method {settings.method!r}: unknown; choose one of {known}")
    # A key is the server's: it never comes with a request, and other methods have no use for it.
    key = os.environ.get(VARIABLE) if settings.method == "swap" else None
    return replace(settings, key=key or None)


def _bytes(data: Any, number: int) -> bytes:
    if not isinstance(data, str):
        return bytes(data)
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise DeidError(f"picture {number}: not base64; give an encoded picture") from None


def _row(result: Result) -> tuple[Any, ...]:
    similarities = json.dumps([dict(face.similarities) for face in result.faces])
    return result.data, len(result.faces), result.verdict, similarities, result.level


mlflow.models.set_model(FaceDeid())
