"""A bundle as an MLflow model ("models from code": `model.py` is the model's code).

It carries all that it needs but public packages, whose versions it names: its weights and settings
as artifacts, this package as code. `deid` on the package index is somebody else's.
"""

import logging
import shutil
import warnings
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

from deid.tracking import mlflow_client

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import ModelSignature

PARAMETERS: tuple[tuple[str, str, object], ...] = (
    ("method", "string", "swap"),
    ("detector", "string", ""),
    ("seed", "long", 0),
    ("strength", "double", 1.0),
    ("allow_no_face", "boolean", False),
    ("first_frame_only", "boolean", False),
)
"""Name, type and default of what a request may set: the fields of `RunSettings` so called, and
`detector`, names as `deid run --detector` takes them with commas between, else the world's own."""
PACKAGE = Path(__file__).resolve().parents[1]
LEFT_OUT = ("__pycache__", "shipped", "pretrain", "data")
"""Of the package: what a version has of its own, or does not need."""
CARD = "README.md"
EXAMPLE = 96  # side of the picture in the input example


def save_pyfunc(bundle: Path, out: Path, card: str = "") -> None:
    """Write an MLflow model directory `out` that serves the bundle in the folder `bundle`.

    `image` in and out is the encoded file: bytes in Python, base64 through REST. Requirements are
    given, not inferred: inferring imports everything once more in another process.
    """
    mlflow_client()  # telemetry off before mlflow is imported
    import mlflow

    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)  # "no version of pip"
    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)  # "validating input example"
    code = out.with_name("code") / "deid"
    shutil.copytree(PACKAGE, code, ignore=shutil.ignore_patterns(*LEFT_OUT))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Add type hints", module="mlflow")
        mlflow.pyfunc.save_model(
            path=out,
            python_model=str(Path(__file__).with_name("model.py")),
            artifacts={"bundle": str(bundle)},
            code_paths=[str(code)],
            signature=_signature(),
            input_example=(_example(), {name: default for name, _, default in PARAMETERS}),
            pip_requirements=requirements(),
        )
    (out / CARD).write_text(card)


def requirements() -> list[str]:
    """What pictures and a server need, in the versions that are installed here."""
    from packaging.requirements import Requirement

    wanted = ["mlflow", "pandas"]
    for line in requires("face-deid") or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            wanted.append(requirement.name)
    return [f"{name}=={_public(name)}" for name in sorted(set(wanted)) if _public(name)]


def _public(name: str) -> str:
    """The installed version without what a build added to it (`+cpu`)."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return ""


def _signature() -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

    outputs: list[ColSpec | TensorSpec] = [
        ColSpec("binary", "image"),
        ColSpec("long", "faces"),
        ColSpec("string", "verdict"),
        ColSpec("string", "similarities"),
        ColSpec("long", "level"),
    ]
    return ModelSignature(
        inputs=Schema([ColSpec("binary", "image")]),
        outputs=Schema(outputs),
        params=ParamSchema([ParamSpec(*parameter) for parameter in PARAMETERS]),
    )


def _example() -> "pd.DataFrame":
    """One small PNG, without anyone in it: how a request looks, not what comes of it."""
    import io

    import numpy as np
    import pandas as pd
    from PIL import Image

    ramp = np.linspace(0, 255, EXAMPLE).astype(np.uint8)
    pixels = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], np.uint8(128)), axis=-1)
    stored = io.BytesIO()
    Image.fromarray(pixels).save(stored, "PNG")
    return pd.DataFrame({"image": [stored.getvalue()]})
