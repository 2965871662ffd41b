"""Networks as ONNX files, for tests of what reads them."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def exported(network: nn.Module, shape: tuple[int, ...], folder: Path, **options: Any) -> Path:
    """The network as ONNX, by the exporter InsightFace used."""
    file = folder / "network.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this exporter is the old one
        torch.onnx.export(
            network,
            (torch.zeros(shape),),
            file,
            dynamo=False,
            input_names=["input.1"],
            dynamic_axes={"input.1": {0: "n"}},
            **options,
        )
    return file


def run_onnx(file: Path, images: Tensor) -> Tensor:
    """Its outputs by ONNX Runtime, picture by picture."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    rows = [session.run(None, {name: image[None].numpy()})[0] for image in images]
    return torch.from_numpy(np.concatenate(rows))
