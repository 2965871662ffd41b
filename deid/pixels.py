"""The one place where pictures change their form.

Inside: `float32 [N,3,H,W]`, RGB, [-1, 1]. At the edge: `uint8 [N,H,W,3]` or `[H,W,3]`, RGB.
"""

import hashlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Pixels = NDArray[np.uint8]


def to_tensor(pixels: NDArray[Any]) -> Tensor:
    """`uint8 [N,H,W,3]` or `[H,W,3]` → `float32 [N,3,H,W]` in [-1, 1]; one picture gets N=1."""
    batch = torch.from_numpy(np.ascontiguousarray(pixels))
    if batch.ndim == 3:
        batch = batch[None]
    return batch.permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1.0)


def to_pixels(images: Tensor) -> Pixels:
    """`float [N,3,H,W]` in [-1, 1] → `uint8 [N,H,W,3]`, rounded and clipped."""
    scaled = images.detach().float().add(1.0).mul(127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def picture_sha256(pixels: Pixels) -> str:
    """A hash of what a picture `uint8 [H,W,3]` shows, whatever file it came from."""
    shape = "x".join(map(str, pixels.shape))
    return hashlib.sha256(f"{shape} ".encode() + pixels.tobytes()).hexdigest()


def quantize(images: Tensor) -> Tensor:
    """What is left of `images` after a trip through 8-bit pixels; same shape and range."""
    return images.detach().add(1.0).mul(127.5).round().clamp(0, 255).div(127.5).sub(1.0)
