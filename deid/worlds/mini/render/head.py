"""The shape of a head: an ovoid with a relief, met by parallel rays.

Head coordinates: x to the right of the picture, y down, z towards the viewer; the origin is in the
skull at the height of the eyes, and half a face's width is about 1. The ovoid is
`(x / a(y))² + ((z - relief) / c)² = q(y)`; the relief (nose, brow, lips…) is a sum of Gaussians.
All fields are `[N,1]`, all points `[N,P]`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from deid.worlds.mini.render.features import Features
from deid.worlds.mini.render.parameters import Columns

Vector = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Shape:
    """The ovoid and the relief of each head of a batch."""

    width: Tensor
    depth: Tensor
    top: Tensor
    bottom: Tensor
    point: Tensor  # how pointed the chin is
    cheek: Tensor
    taper: Tensor
    jaw_y: Tensor
    exponents: Tensor  # [N,K,5] of each Gaussian in 1, m, m², y, y², with m = |x|
    weights: Tensor  # [N,5,K] that give the relief and its derivatives

    def profile(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Half-width a, its slope, fullness q and its slope, at height y."""
        s = torch.sigmoid((y - self.jaw_y) / 0.24)
        v = (y - 0.5) / 0.45
        g = self.cheek * torch.exp(-v * v)
        a = self.width * (1 + g - self.taper * s)
        a_y = self.width * (-2 / 0.45 * v * g - self.taper / 0.24 * s * (1 - s))
        below = (y > 0).float()
        b = torch.where(y > 0, self.bottom, self.top)
        c2 = torch.lerp(torch.full_like(self.point, 0.4), self.point, below)
        r = y / b
        r2 = r * r
        q = 1 - r2 * (c2 + (1 - c2) * r2)
        q_y = -(2 * c2 * r + 4 * (1 - c2) * r * r2) / b
        return a, a_y, q, q_y

    def gaussians(self, m: Tensor, y: Tensor) -> Tensor:
        """`[N,K,P]`."""
        basis = torch.stack([torch.ones_like(m), m, m * m, y, y * y], dim=1)
        return torch.bmm(self.exponents, basis).clamp_min_(-40.0).exp_()

    def relief(self, m: Tensor, y: Tensor) -> Tensor:
        """Height above the ovoid at mirrored position m = |x|, y."""
        return torch.bmm(self.weights[:, :1], self.gaussians(m, y))[:, 0]

    def relief_slope(self, m: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Relief and its derivatives by m and y."""
        h, s1, s2, s3, s4 = torch.bmm(self.weights, self.gaussians(m, y)).unbind(1)
        return h, s1 + 2 * m * s2, s3 + 2 * y * s4

    def surface(self, x: Tensor, y: Tensor) -> Tensor:
        """z of the front of the head at x, y; at the rim where there is none."""
        a, _, q, _ = self.profile(y)
        inside = (q - (x / a) ** 2).clamp_min(0.0)
        return self.depth * inside.sqrt() + self.relief(x.abs(), y)


def shape_of(c: Columns, f: Features) -> Shape:
    """The heads of a batch, from identity and (jaw, cheeks, lips) expression."""
    width = c.uniform("face_width", 0.93, 1.16)
    bottom = c.uniform("chin_length", 1.54, 1.86) + 0.05 * f.male + 0.2 * f.opening
    taper = c.uniform("jaw_width", 0.54, 0.27) - 0.05 * f.male + 0.05 * f.opening
    exponents, weights = _relief(c, f, bottom)
    one = torch.ones_like(width)
    return Shape(
        width=width,
        depth=1.16 * one,
        top=c.uniform("forehead", 1.46, 1.66),
        bottom=bottom,
        point=c.uniform("chin_shape", 0.0, 0.3) - 0.08 * f.male,
        cheek=c.uniform("cheeks", -0.05, 0.10) + 0.03 * f.smile.clamp_min(0),
        taper=taper,
        jaw_y=1.12 * one + 0.08 * f.male + 0.08 * f.opening,
        exponents=exponents,
        weights=weights,
    )


def _relief(c: Columns, f: Features, bottom: Tensor) -> tuple[Tensor, Tensor]:
    """The Gaussians (height, m, y, spread in m, spread in y) as one bilinear form."""
    nose, wide, bridge = f.nose_y, f.nose_half / 0.2, c.uniform("nose_bridge", 0.5, 1.5)
    deep = c.uniform("eye_depth", 0.3, 1.8) + 0.2 * f.male
    full = c.uniform("cheeks", 0.6, 1.3) + 0.9 * f.smile.clamp_min(0)
    lips, gape = f.mouth_y, f.opening
    rows: list[tuple[Tensor | float, ...]] = [
        (0.15 * bridge, 0.0, 0.08, 0.15, 0.30),
        (0.17 * bridge, 0.0, 0.36 * nose / 0.6, 0.15 * wide.sqrt(), 0.20),
        (0.17 + 0.06 * f.nose_tip, 0.0, nose - 0.02 - 0.03 * f.nose_tip, 0.145 * wide, 0.14),
        (0.15, f.nose_half * 0.78, nose + 0.05, 0.085 * wide.sqrt(), 0.09),
        (0.07 * deep, 0.36, f.brow_y + 0.06, 0.30, 0.12),
        (-0.11 * deep, f.eye_x - 0.03, -0.02, 0.22, 0.16),
        (0.07, f.eye_x, 0.02, 0.16, 0.12),
        (0.09 * full, 0.58, 0.48 - 0.06 * f.smile, 0.26, 0.26),
        (0.07, 0.0, lips - 0.06, 0.28, 0.08),
        (0.08, 0.0, lips + 0.09 + 0.2 * gape, 0.24, 0.08),
        (-0.06, 0.0, lips + 0.24 + 0.22 * gape, 0.26, 0.07),
        (0.18, 0.0, bottom - 0.24, 0.27, 0.17),
        (0.07, 0.0, lips - 0.05, 0.42, 0.27),
    ]
    one = torch.ones_like(bottom)
    height, m0, y0, sm, sy = (
        torch.cat([one * row[i] for row in rows], dim=1) for i in range(5)
    )  # each [N,K]
    em, ey = sm**-2, sy**-2
    exponents = [-(m0**2) * em - y0**2 * ey, 2 * m0 * em, -em, 2 * y0 * ey, -ey]
    weights = [height * w for w in (torch.ones_like(em), *exponents[1:])]
    return torch.stack(exponents, dim=2), torch.stack(weights, dim=1)


@dataclass(frozen=True)
class Hit:
    """Where rays meet a head: the point, its unit normal, and how far inside the outline it is."""

    x: Tensor
    y: Tensor
    z: Tensor
    normal: Vector
    inside: Tensor  # about the distance to the outline, head units, negative outside


def meet(shape: Shape, origin: Vector, ray: Vector, rounds: int = 6, relief: bool = True) -> Hit:
    """Follow `origin + t·ray` (head coordinates, ray towards the viewer) to the nearest surface.

    Relief and profile vary slowly along a ray, so the quadratic of the ovoid is solved with those
    of the last point, damped, from the front; five rounds settle the side of a nose at 30° yaw.
    """
    ox, oy, oz = origin
    dx, dy, dz = ray
    y = oy + dy * 1.0
    t = (0.9 * shape.depth - oz) / dz
    height = torch.zeros_like(ox)
    for turn in range(rounds):
        if turn:
            y = oy + t * dy
        if turn and relief:
            height = shape.relief((ox + t * dx).abs(), y)
        a, _, q, _ = shape.profile(y)
        ia, ic = 1 / (a * a), 1 / (shape.depth * shape.depth)
        z0 = oz - height
        qa = dx * dx * ia + dz * dz * ic
        qb = (ox * dx * ia + z0 * dz * ic) / qa
        qc = (ox * ox * ia + z0 * z0 * ic - q) / qa
        disc = qb * qb - qc
        found = disc.clamp_min(0.0).sqrt() - qb
        t = found if turn == 0 else torch.lerp(t, found, 0.75)
    x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
    gradient = _gradient(shape, (x, y, z), relief)
    gx, gy, gz = gradient
    steep = (gx * gx + gy * gy + gz * gz + 1e-6).sqrt()
    nx, ny, nz = gx / steep, gy / steep, gz / steep
    return Hit(x, y, z, (nx, ny, nz), 0.5 * disc * qa / steep.clamp_min(0.4))


def _gradient(shape: Shape, point: Vector, relief: bool) -> Vector:
    """Half the gradient of `(x / a)² + ((z - relief) / c)² - q`."""
    x, y, z = point
    a, a_y, _, q_y = shape.profile(y)
    h = h_m = h_y = torch.zeros_like(x)
    if relief:
        h, h_m, h_y = shape.relief_slope(x.abs(), y)
    nz = (z - h) / (shape.depth * shape.depth)
    xa = x / (a * a)
    nx = xa - nz * h_m * torch.sign(x)
    ny = -xa * x * a_y / a - 0.5 * q_y - nz * h_y
    return nx, ny, nz
