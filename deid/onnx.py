"""Networks in ONNX files, on the CPU."""

import os
from pathlib import Path
from typing import Any


def open_session(file: Path) -> Any:
    """An onnxruntime session that computes on as many threads as torch may.

    Left to itself it takes every core for each worker process, and its threads burn what they
    wait: on one thread the same picture costs half the processor time.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import torch
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
