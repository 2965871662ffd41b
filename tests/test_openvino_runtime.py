"""The generator of the photo world draws what OpenVINO's own runtime draws of the same files.

`tests/test_face_networks.py` compares with recorded outputs, always; here the runtime itself runs,
where `uv sync --inexact --group runtime` brought it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deid.weights.importers import build, read_checkpoint
from tests.test_face_networks import public_file

CLOSE = 1e-4
FACES = 3


def compiled(path: Path) -> Any:
    core = pytest.importorskip("openvino").Core()
    return core.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


@pytest.mark.slow
def test_the_generator_draws_what_the_runtime_itself_draws() -> None:
    mapping, synthesis = (
        public_file(f"mobile-stylegan-{part}") for part in ("mapping", "synthesis")
    )
    theirs: Any = [compiled(path) for path in (mapping, synthesis)]
    ours: Any = [build(read_checkpoint(path)) for path in (mapping, synthesis)]
    numbers = np.random.default_rng(7).normal(size=(FACES, 512)).astype(np.float32)
    for z in numbers[:, None]:
        w = theirs[0](z)[0]
        with torch.inference_mode():
            assert np.abs(ours[0](torch.from_numpy(z)).numpy() - w).max() < CLOSE
            style = torch.from_numpy(w)[:, None].expand(-1, ours[1].num_ws, -1)
            picture = ours[1](style).numpy()
        drawn = theirs[1](w)[0]
        assert drawn.shape == picture.shape == (1, 3, 1024, 1024)
        # In double precision ours is nearer to the exact picture (4e-5 of this one) than the
        # runtime is (1.1e-4, four values of three million).
        apart = np.abs(picture - drawn)
        assert (apart > CLOSE).mean() < 1e-5
        assert apart.max() < 2 * CLOSE
