"""Networks in ONNX files, on the CPU."""

import os
from pathlib import Path
from typing import Any


def open_session(file: Path, any_size: bool = False) -> Any:
    """An onnxruntime session that computes on as many threads as torch may.

    Left to itself it takes every core for each worker process, and its threads burn what they
    wait: on one thread the same picture costs half the processor time. `any_size`: the height and
    width that the file fixes for its first input are forgotten; for a network of convolutions.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import torch
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    source = _of_any_size(file) if any_size else str(file)
    return InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _of_any_size(file: Path) -> bytes:
    import onnx

    model = onnx.load(file, load_external_data=False)  # a file may name any other
    height, width = model.graph.input[0].type.tensor_type.shape.dim[2:]
    height.dim_param, width.dim_param = "height", "width"
    del model.graph.value_info[:]  # what the file says of sizes further on holds no more
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    return bytes(model.SerializeToString())
