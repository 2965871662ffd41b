"""How far a generated picture is from the rendered one, with an eye to eyes and mouths.

Plain regression spends itself on hair and backdrop and averages smiles away: a mouth is one
hundredth of the picture. So errors count by region, and edges count beside colors.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MOUTH = slice(48, 68)
EYES = (slice(36, 42), slice(42, 48))


@dataclass(frozen=True)
class Regions:
    """Soft masks `[N,1,S,S]` in [0, 1]."""

    face: Tensor
    eyes: Tensor
    mouth: Tensor


def regions(landmarks: Tensor, size: int) -> Regions:
    """Soft ellipses around the landmarks `[N,68,2]` (pixels) of pictures of `size`."""
    eyes = [_ellipse(landmarks[:, eye], size, grow=1.5, margin=0.03) for eye in EYES]
    return Regions(
        face=_ellipse(landmarks, size, grow=1.1, margin=0.0),
        eyes=torch.maximum(*eyes),
        mouth=_ellipse(landmarks[:, MOUTH], size, grow=1.2, margin=0.025),
    )


def _ellipse(points: Tensor, size: int, grow: float, margin: float) -> Tensor:
    low, high = points.amin(1), points.amax(1)
    center = ((low + high) / 2)[:, None, None]
    radius = ((high - low) / 2 * grow + margin * size).clamp_min(1.0)[:, None, None]
    axis = torch.arange(size, device=points.device) + 0.5
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    distance = ((grid - center) / radius).norm(dim=-1)
    return torch.sigmoid((1.1 - distance) * 10.0)[:, None]


def distillation_loss(
    generated: Tensor, rendered: Tensor, masks: Regions, absolute: float
) -> Tensor:
    """Weighted error of the colors and of their differences between neighbors; scalar.

    `absolute` in [0, 1] blends from squared to absolute errors.
    """
    weight = 1.0 + 2.0 * masks.face + 8.0 * masks.eyes + 8.0 * masks.mouth
    error = generated - rendered
    terms = (
        (error, weight),
        (error.diff(dim=-1), weight[..., 1:]),
        (error.diff(dim=-2), weight[..., 1:, :]),
    )
    return torch.stack([(w * _penalty(e, absolute)).mean() for e, w in terms]).sum()


def _penalty(error: Tensor, absolute: float) -> Tensor:
    return (1 - absolute) * 4.0 * error.square() + absolute * error.abs()


def psnr(generated: Tensor, rendered: Tensor, mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1], within `mask` if given."""
    error = (generated.clamp(-1, 1) - rendered).square().mean(1, keepdim=True)
    mean = error.mean() if mask is None else (error * mask).sum() / mask.sum()
    return float(10 * torch.log10(4.0 / mean))
