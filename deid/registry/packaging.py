"""A bundle as an MLflow model ("models from code": `model.py` is the model's code)."""

import logging
import warnings
from importlib.metadata import version
from pathlib import Path

from deid import __version__
from deid.tracking import mlflow_client

PARAMETERS: tuple[tuple[str, str, object], ...] = (
    ("method", "string", "swap"),
    ("seed", "long", 0),
    ("allow_no_face", "boolean", False),
    ("first_frame_only", "boolean", False),
)
"""Name, type and default of what a request may set."""


def save_pyfunc(bundle: Path, out: Path) -> None:
    """Write an MLflow model directory `out` that serves the bundle in the folder `bundle`.

    `image` in and out is the encoded file: bytes in Python, base64 through REST. Requirements are
    given, not inferred: inferring imports everything once more in another process.
    """
    mlflow_client()  # telemetry off before mlflow is imported
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

    outputs: list[ColSpec | TensorSpec] = [
        ColSpec("binary", "image"),
        ColSpec("long", "faces"),
        ColSpec("string", "verdict"),
        ColSpec("string", "similarities"),
        ColSpec("long", "level"),
    ]
    signature = ModelSignature(
        inputs=Schema([ColSpec("binary", "image")]),
        outputs=Schema(outputs),
        params=ParamSchema([ParamSpec(*parameter) for parameter in PARAMETERS]),
    )
    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)  # "no version of pip"
    with warnings.catch_warnings():
        # An example would run the whole model here; the signature is given, tests serve it.
        warnings.filterwarnings(
            "ignore", message=".*(input example|Add type hints)", module="mlflow"
        )
        mlflow.pyfunc.save_model(
            path=out,
            python_model=str(Path(__file__).with_name("model.py")),
            artifacts={"bundle": str(bundle)},
            signature=signature,
            pip_requirements=[f"face-deid=={__version__}", f"mlflow=={version('mlflow')}"],
        )
