"""A Gaussian blur of few pixels, differentiable: a row of weights across, then down."""

import torch
from torch import Tensor
from torch.nn import functional as F


def smooth(images: Tensor, sigma: float, reach: int) -> Tensor:
    """`[N,3,H,W]`, weights of deviation `sigma` to `reach` pixels on either side, mirrored at the
    border."""
    reach = min(reach, min(images.shape[-2:]) - 1)
    offsets = torch.arange(-reach, reach + 1.0, device=images.device)
    weights = torch.softmax(-(offsets**2) / (2.0 * sigma**2), 0)
    kernel = weights.expand(images.shape[1], 1, -1)
    padded = F.pad(images, [reach] * 4, mode="reflect")
    across = F.conv2d(padded, kernel[:, :, None], groups=images.shape[1])
    return F.conv2d(across, kernel[..., None], groups=images.shape[1])
