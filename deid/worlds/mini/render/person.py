"""A batch of people, and how each is drawn over a canvas, from the back to the front."""

from dataclasses import dataclass

import torch
from torch import Tensor

from deid.worlds.mini.render.features import Features, features_of
from deid.worlds.mini.render.hair import Hair, hair_of
from deid.worlds.mini.render.head import Hit, Shape, Vector, meet, shape_of
from deid.worlds.mini.render.landmarks import landmarks_on
from deid.worlds.mini.render.light import Light, light_of
from deid.worlds.mini.render.paint import FacePainter, Palette, blend, bump, linear, palette_of
from deid.worlds.mini.render.parameters import Columns

_PIVOT = (0.0, 1.0, -0.3)  # the head turns about the top of the neck


@dataclass(frozen=True)
class Person:
    """Everything a drawing needs, for a batch; see the modules of each part."""

    features: Features
    shape: Shape
    hair: Hair
    palette: Palette
    light: Light
    rotation: Tensor  # [N,3,3], head → camera
    cloth: Tensor  # [N,3,1]
    glasses: Tensor  # [N,1], 1: worn
    glasses_size: Tensor
    glasses_color: Tensor  # [N,3,1]

    def to_camera(self, points: Tensor) -> Tensor:
        """Head coordinates `[N,K,3]` → camera coordinates."""
        pivot = points.new_tensor(_PIVOT)
        return (points - pivot) @ self.rotation.transpose(1, 2) + pivot

    def landmarks(self) -> Tensor:
        """`[N,68,2]` in camera coordinates."""
        return self.to_camera(landmarks_on(self.shape, self.features))[..., :2]

    def ray(self) -> Vector:
        """The direction to the viewer in head coordinates, `[N,1]` each."""
        x, y, z = self.rotation[:, 2].chunk(3, dim=1)
        return x, y, z

    def origin(self, u: Tensor, v: Tensor) -> Vector:
        """Camera points (u, v, pivot's depth) in head coordinates."""
        r = self.rotation[:, :, :, None]
        du, dv = u - _PIVOT[0], v - _PIVOT[1]
        x, y, z = (r[:, 0, i] * du + r[:, 1, i] * dv + _PIVOT[i] for i in range(3))
        return x, y, z

    def turn(self, vector: Vector) -> Vector:
        """Directions in head coordinates → camera coordinates."""
        r = self.rotation[:, :, :, None]
        x, y, z = (
            r[:, i, 0] * vector[0] + r[:, i, 1] * vector[1] + r[:, i, 2] * vector[2]
            for i in range(3)
        )
        return x, y, z


def person_of(parameters: Tensor) -> Person:
    """People from `[N,P]`."""
    c = Columns(parameters)
    f = features_of(c)
    shape = shape_of(c, f)
    level, red, blue = (
        c.uniform("cloth_lightness", 0.12, 0.75),
        c.normal("cloth_red"),
        c.normal("cloth_blue"),
    )
    cloth = torch.cat(
        [level + 0.22 * torch.tanh(0.7 * red), level, level + 0.22 * torch.tanh(0.7 * blue)], 1
    )
    frame = c.uniform("glasses_color", 0.0, 1.0)[:, :, None]
    return Person(
        features=f,
        shape=shape,
        hair=hair_of(c, f, shape),
        palette=palette_of(c, f),
        light=light_of(c),
        rotation=_rotation(c),
        cloth=cloth.clamp(0.05, 0.9).square()[:, :, None],
        glasses=c.above("glasses", 0.84, 12.0),
        glasses_size=c.uniform("glasses_size", 0.0, 1.0),
        glasses_color=torch.lerp(linear(20, 18, 22), linear(120, 64, 36), frame),
    )


def _rotation(c: Columns) -> Tensor:
    """Roll · pitch · yaw: up to 31°, 15° and 10°."""
    yaw, pitch, roll = (
        c.bell("yaw", 0.55, 0.55),
        c.bell("pitch", 0.26, 0.5),
        c.bell("roll", 0.18, 0.6),
    )
    one, zero = torch.ones_like(yaw), torch.zeros_like(yaw)

    def matrix(*entries: Tensor) -> Tensor:
        return torch.cat(entries, dim=1).view(-1, 3, 3)

    cy, sy, cp, sp, cr, sr = yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin(), roll.cos(), roll.sin()
    about_y = matrix(cy, zero, sy, zero, one, zero, -sy, zero, cy)
    about_x = matrix(one, zero, zero, zero, cp, sp, zero, -sp, cp)
    about_z = matrix(cr, -sr, zero, sr, cr, zero, zero, zero, one)
    return about_z @ about_x @ about_y


class Drawing:
    """One batch of people being drawn at camera points u, v `[N,P]`, over `canvas` `[N,3,P]`."""

    def __init__(self, person: Person, u: Tensor, v: Tensor, pixel: Tensor, canvas: Tensor) -> None:
        """`pixel` `[N,1]`: the width of a pixel in camera units; `canvas`: squares of sRGB."""
        self.person, self.u, self.v, self.pixel = person, u, v, pixel
        self.canvas = canvas
        self.clear = torch.ones_like(u)  # what still shows of the backdrop

    def all(self) -> tuple[Tensor, Tensor]:
        """Canvas `[N,3,P]` with the people on it, and their matte `[N,P]`."""
        skull = self.person.to_camera(torch.tensor([[[0.0, 0.0, -0.35]]]))
        self.origin = self.person.origin(self.u, self.v)
        shell = self.person.hair.shell(self.person.shape)
        self.shell = meet(shell, self.origin, self.person.ray(), rounds=3, relief=False)
        self.clothes()
        self.falling_hair(skull)
        self.neck()
        self.head()
        self.glasses()
        self.hair()
        return self.canvas, 1 - self.clear

    def garment(self) -> tuple[Tensor, Tensor]:
        """As `all`, without neck, head and hair."""
        self.clothes()
        return self.canvas, 1 - self.clear

    def lay(self, color: Tensor, alpha: Tensor) -> None:
        """Put a layer on top."""
        self.canvas = blend(self.canvas, color, alpha)
        self.clear = self.clear * (1 - alpha)

    def edge(self, distance: Tensor, softness: float = 0.0) -> Tensor:
        """Coverage of a shape from the signed distance inside it."""
        return torch.sigmoid(distance / (0.32 * self.pixel + softness))

    def clothes(self) -> None:
        """Shoulders in a plain garment."""
        a = self.u.abs()
        top = 1.64 + 0.16 * a + 0.55 * (a - 1.75).clamp_min(0).square()
        slope = 0.16 + 1.1 * (a - 1.75).clamp_min(0)
        n = torch.rsqrt(1 + (0.4 * self.u) ** 2 + 0.1)
        light = self.person.light.on((0.4 * self.u * n, -0.3 * n, n))
        self.lay(
            self.person.cloth * light, self.edge((self.v - top) * torch.rsqrt(1 + slope * slope))
        )

    def falling_hair(self, skull: Tensor) -> None:
        """Hair behind the head; long hair falls over the shoulders."""
        hair, p = self.person.hair, self.person
        u, v = self.u - skull[:, :, 0], self.v - skull[:, :, 1]
        inside = hair.fall(u, v, p.shape.width)
        bend = u / (p.shape.width * 1.3)
        light = p.light.on((0.7 * bend, 0 * bend, 0.7 + 0 * bend))
        strands = 1 + 0.10 * torch.sin(17 * u + 2 * torch.sin(2 * v))
        color = p.palette.hair * light * (0.62 * strands)[:, None]
        self.lay(color, self.edge(inside, 0.03) * torch.sigmoid((hair.long - 0.32) * 16))
        self.lay(color, self.edge(self.shell.inside, 0.02) * hair.behind(self.shell))

    def neck(self) -> None:
        """Neck and neckline, under the shadow of the chin."""
        p = self.person
        half = 0.60 + 0.07 * p.features.male + 0.3 * (self.v - 1.55).clamp_min(0).square()
        r = self.u / half
        nx = r.clamp(-0.97, 0.97)
        nz = (1 - nx * nx).sqrt()
        low = 2.0 - 0.5 * (self.u / 0.62).square() * (1 + 0.2 * r.abs())
        inside = torch.minimum(half - self.u.abs(), torch.minimum(low - self.v, self.v - 0.2))
        chin = p.shape.bottom
        shadow = 0.45 + 0.55 * torch.sigmoid((self.v - chin - 0.14) / 0.11)
        light = p.light.on((0.9 * nx, 0.25 + 0 * nx, 0.9 * nz))
        self.lay(p.palette.skin * light * shadow[:, None] * 0.94, self.edge(inside))

    def head(self) -> None:
        """The face and its ears."""
        p = self.person
        hit = meet(p.shape, self.origin, p.ray())
        painter = FacePainter(p.features, p.palette, hit, self.pixel)
        albedo = painter.albedo()
        normal = p.turn(hit.normal)
        shine = p.light.gloss(normal, 16) * (0.10 + 0.05 * bump(hit.x.abs(), hit.y - 0.3, 0.5, 0.5))
        lit = albedo * p.light.on(normal) * self._occlusion(hit)[:, None]
        cover = self.edge(hit.inside)
        self._ears(cover)
        self.lay(lit + (0.7 * shine)[:, None] * p.light.lamp, cover)
        self._ears(cover, in_front=True)

    def _occlusion(self, hit: Hit) -> Tensor:
        """Less light from all around under the nose, in the sockets, under lip, chin and hair."""
        f, m = self.person.features, hit.x.abs()
        dark = 0.22 * bump(m - f.eye_x + 0.1, hit.y + 0.06, 0.2, 0.15)
        dark = dark + 0.2 * bump(m - 1.25 * f.nose_half, hit.y - f.nose_y - 0.02, 0.1, 0.14)
        dark = dark + 0.18 * bump(m, hit.y - f.mouth_y - f.lip_lower - f.opening - 0.09, 0.22, 0.07)
        rim = 0.35 * torch.sigmoid((hit.y - self.person.shape.bottom + 0.1) * 14)
        shade = 0.3 * self.person.hair.cover(hit, drop=0.07, softness=0.09)
        return (1 - dark) * (1 - rim) * (1 - shade)

    def _ears(self, head: Tensor, in_front: bool = False) -> None:
        """Ears behind the outline of the head; the near one of a rotated head lies on it."""
        p = self.person
        for side in (-1.0, 1.0):
            at = torch.cat(
                [side * (1.0 * p.shape.width), 0.2 + 0 * p.shape.width, -0.12 + 0 * p.shape.width],
                1,
            )
            center = p.to_camera(at[:, None])[:, 0]
            du, dv = self.u - center[:, :1], self.v - center[:, 1:2]
            facing = side * p.rotation[:, 2, :1] + 0.10
            wide = 0.13 + 0.10 * facing.clamp_min(0)
            r = ((du / wide).square() + (dv / 0.27).square()).clamp_min(1e-6).sqrt()
            alpha = self.edge((1 - r) * wide) * torch.sigmoid((facing + 0.06) * 24)
            alpha = alpha * torch.sigmoid((0.4 - p.hair.long) * 14)
            if in_front:
                alpha = alpha * torch.sigmoid((facing - 0.22) * 22) * head
            n = torch.rsqrt(1 + 0.3 * r * r)
            light = p.light.on((side * 0.6 * n, 0 * n, 0.8 * n))
            inner = 1 - 0.4 * bump(du, dv + 0.03, 0.09, 0.14)
            self.lay(p.palette.skin * light * inner[:, None] * 0.9, alpha)

    def glasses(self) -> None:
        """Rims, bridge, a tint and a reflection, in a plane before the eyes; arms to the ears."""
        p, f = self.person, self.person.features
        dx, dy, dz = p.ray()
        ox, oy, oz = self.origin
        plane = p.shape.surface(f.eye_x, torch.zeros_like(f.eye_x)) + 0.13
        t = (plane - oz) / dz
        x, y = ox + t * dx, oy + t * dy
        m = x.abs()
        half_w, half_h = 0.285 + 0.06 * p.glasses_size, 0.17 + 0.09 * p.glasses_size
        middle, corner = f.eye_x + 0.015, 0.09 + 0.08 * p.glasses_size
        qx, qy = (m - middle).abs() - half_w + corner, (y - 0.03).abs() - half_h + corner
        out = (qx.clamp_min(0).square() + qy.clamp_min(0).square() + 1e-6).sqrt()
        d = out + torch.maximum(qx, qy).clamp_max(0) - corner
        bridge = torch.minimum(0.023 - (y + 0.03).abs(), middle - half_w - m)
        rim = torch.maximum(0.025 - d.abs(), bridge)
        sheen = 0.04 + 0.12 * torch.exp(-((m - middle + y - 0.02) / 0.1).square())
        self.lay(linear(225, 232, 240), self.edge(-d) * sheen * p.glasses)
        self.lay(p.glasses_color, self.edge(rim, 0.004) * p.glasses * 0.9)

    def hair(self) -> None:
        """The shell of hair, lit as a dull cylinder with a soft band of gloss."""
        p = self.person
        hit = self.shell
        normal = p.turn(hit.normal)
        strands = 1 + 0.12 * torch.sin(15 * hit.x + 3.0 * hit.y) * torch.sigmoid(
            (0.6 - hit.z) * 3 + 1
        )
        light = p.light.on(normal, 0.45) * strands[:, None]
        shine = p.light.gloss(normal, 8)[:, None] * p.light.lamp
        color = p.palette.hair * (0.92 * light + 0.4 * shine) + 0.012 * shine
        self.lay(color, self.edge(hit.inside, 0.02) * p.hair.cover(hit))


def backdrop(parameters: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Soft gradient `[N,3,P]` (squares of sRGB) at picture coordinates in [-1, 1]."""
    c = Columns(parameters)
    light = c.uniform("back_lightness", 0.12, 0.88)
    red, blue = c.bell("back_red", 0.2, 0.7), c.bell("back_blue", 0.2, 0.7)
    angle = c.bell("back_direction", 3.0, 0.6)
    run = 0.16 * c.bell("back_gradient", 1.6, 0.7) * (torch.sin(angle) * x + torch.cos(angle) * y)
    base = light + run - 0.05 * (x * x + y * y)
    tint = 0.6 + 0.4 * light
    planes = [base + tint * (red - 0.3 * blue), base, base + tint * (blue - 0.3 * red)]
    return torch.stack(planes, dim=1).clamp(0.03, 0.96).square()
