"""The 68 true landmarks (iBUG order) as points on the head, in head coordinates."""

import torch
from torch import Tensor

from deid.worlds.mini.render.features import Features
from deid.worlds.mini.render.head import Shape


def landmarks_on(shape: Shape, f: Features) -> Tensor:
    """`[N,68,3]`; hair, beard and glasses in front of a point do not move it."""
    half = [_brow(f), _eye(f)]
    brow, eye = (torch.stack(part, dim=2) for part in half)  # [N,K,2], on the right side
    nose, mouth = _nose(f), _mouth(f)
    # A mirrored feature runs the other way: the brows outer → inner, the eyes outer → inner corner.
    left_eye = _mirror(eye)[:, [3, 2, 1, 0, 5, 4]]
    flat = torch.cat([_mirror(brow).flip(1), brow, nose, left_eye, eye, mouth], dim=1)
    z = shape.surface(flat[..., 0], flat[..., 1])
    return torch.cat([_jaw(shape), torch.cat([flat, z[..., None]], dim=2)], dim=1)


def _mirror(points: Tensor) -> Tensor:
    return points * points.new_tensor([-1.0, 1.0])


def _at(values: list[float], like: Tensor) -> Tensor:
    return like.new_tensor([values]).expand(len(like), -1)


def _jaw(shape: Shape) -> Tensor:
    """Seventeen points from ear to ear around the chin, a little inside the outline."""
    turn = torch.linspace(-1, 1, 17)[None]
    y = 0.02 + (0.97 * shape.bottom - 0.02) * torch.cos(0.5 * torch.pi * turn)
    a, _, q, _ = shape.profile(y)
    # From the middle of the head at the ears, the jaw runs forward to the front of the chin.
    around = 0.5 * torch.pi * torch.sign(turn) * torch.sin(0.5 * torch.pi * turn.abs()).sqrt()
    rim = q.clamp_min(0.02).sqrt()
    x, z = a * rim * torch.sin(around), shape.depth * rim * torch.cos(around)
    return torch.stack([x, y, z], dim=2)


def _brow(f: Features) -> tuple[Tensor, Tensor]:
    m = f.eye_x + 0.01 + 0.34 * _at([-0.85, -0.42, 0.0, 0.45, 0.9], f.eye_x)
    line, half = f.brow(m)
    return m, line - 0.5 * half


def _eye(f: Features) -> tuple[Tensor, Tensor]:
    """Inner corner, two on the upper lid, outer corner, two on the lower lid."""
    u = _at([-1.0, -0.36, 0.36, 1.0, 0.36, -0.36], f.eye_x)
    upper, lower = f.lids(u)
    on_upper = _at([0.5, 1.0, 1.0, 0.5, 0.0, 0.0], f.eye_x)
    across = f.eye_half * u
    upper = torch.minimum(upper, lower)
    y = on_upper * upper + (1 - on_upper) * lower - f.eye_tilt * across
    return f.eye_x + across, y


def _nose(f: Features) -> Tensor:
    """Four down the bridge to the tip, five along the base."""
    x = torch.cat(
        [torch.zeros(len(f.nose_y), 4), f.nose_half * _at([-0.8, -0.4, 0, 0.4, 0.8], f.nose_y)], 1
    )
    y = torch.cat(
        [
            f.nose_y * _at([0.0, 0.33, 0.66, 1.0], f.nose_y),
            f.nose_y + _at([0.105, 0.13, 0.145, 0.13, 0.105], f.nose_y),
        ],
        1,
    )
    return torch.stack([x, y], dim=2)


def _mouth(f: Features) -> Tensor:
    """Twelve around the lips, eight around the opening."""
    outer = _at([-1, -0.62, -0.2, 0, 0.2, 0.62], f.mouth_y)
    back = _at([1, 0.62, 0.25, 0, -0.25, -0.62], f.mouth_y)
    inner = _at([-0.86, -0.33, 0, 0.33], f.mouth_y)
    inner_back = _at([0.86, 0.33, 0, -0.33], f.mouth_y)
    y = torch.cat(
        [
            f.lips(outer)[0],
            f.lips(back)[3],
            f.lips(inner)[1],
            f.lips(inner_back)[2],
        ],
        dim=1,
    )
    u = torch.cat([outer, back, inner, inner_back], dim=1)
    return torch.stack([f.mouth_half * u, y], dim=2)
