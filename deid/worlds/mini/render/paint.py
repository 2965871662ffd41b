"""The colors of a face: skin, eyes, brows, nose, lips, beard, lines of age.

Everything is a smooth signed-distance shape in head coordinates, its edge as wide as a pixel, so
that pictures need no supersampling and change smoothly with the parameters. Colors are squares of
sRGB values (nearly linear light), `[N,3,P]`; the last step of shading takes the root.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from deid.worlds.mini.render.features import Features
from deid.worlds.mini.render.head import Hit
from deid.worlds.mini.render.parameters import Columns

_SKIN = [
    (66, 42, 32),
    (112, 74, 54),
    (166, 116, 86),
    (210, 154, 118),
    (232, 184, 152),
    (240, 202, 176),
]
_HAIR = [(22, 18, 18), (46, 31, 24), (84, 54, 36), (132, 92, 58), (186, 144, 90), (226, 194, 136)]
_IRIS = [(44, 26, 16), (82, 52, 28), (112, 96, 52), (84, 122, 104), (96, 142, 178)]


def blend(canvas: Tensor, color: Tensor, alpha: Tensor) -> Tensor:
    """Lay `color` `[N,3,1]` or `[N,3,P]` over `canvas` `[N,3,P]` with `alpha` `[N,P]`."""
    return torch.lerp(canvas, color, alpha[:, None])


def linear(*rgb: int) -> Tensor:
    """An 8-bit sRGB color as `[1,3,1]` of the canvas."""
    return (torch.tensor(rgb, dtype=torch.float32) / 255).square()[None, :, None]


def ramp(stops: list[tuple[int, int, int]], at: Tensor) -> Tensor:
    """The color `[N,3,1]` at `at` `[N,1]` in [0, 1] along `stops`."""
    table = (torch.tensor(stops, dtype=torch.float32) / 255).square()
    place = at.clamp(0, 1) * (len(stops) - 1)
    knots = torch.arange(len(stops), dtype=torch.float32)[None]
    weights = (1 - (place - knots).abs()).clamp_min(0.0)
    return (weights @ table)[:, :, None]


def bump(x: Tensor, y: Tensor, sx: float, sy: float) -> Tensor:
    """A Gaussian spot of height 1 around the origin."""
    return torch.exp(-(x / sx).square() - (y / sy).square())


@dataclass(frozen=True)
class Palette:
    """The colors of a person, `[N,3,1]`, and amounts, `[N,1]`."""

    skin: Tensor
    light_skin: Tensor  # 0 dark … 1 fair
    lips: Tensor
    hair: Tensor
    iris: Tensor
    beard: Tensor
    blush: Tensor
    makeup: Tensor


def palette_of(c: Columns, f: Features) -> Palette:
    """Colors as people have them: fair hair and light eyes go with fair skin, gray with age."""
    tone = c.uniform("skin_tone", 0.0, 1.0)
    hue = c.uniform("skin_hue", -1.0, 1.0)[:, :, None]
    tint = torch.cat([1 + 0.05 * hue, 1 - 0.03 * hue, 1 - 0.14 * hue], dim=1)
    skin = ramp(_SKIN, tone) * tint
    fair = c.uniform("hair_lightness", 0.0, 1.0) * (0.25 + 0.75 * tone)
    red = c.above("hair_red", 0.8, 3.0)[:, :, None] * tone[:, :, None]
    hair = ramp(_HAIR, fair)
    hair = hair * torch.cat([1 + 0.8 * red, 1 - 0.1 * red, 1 - 0.5 * red], dim=1)
    gray = torch.sigmoid(14 * (f.age - 0.84))[:, :, None] * 0.85
    hair = torch.lerp(hair, linear(176, 174, 172), gray)
    female = torch.sigmoid(-3 * f.male)
    color = c.uniform("lip_color", 0.0, 1.0)
    made_up = color * female
    lips = skin * torch.tensor([0.86, 0.58, 0.62])[None, :, None]
    lips = torch.lerp(lips, linear(176, 40, 60), (0.1 * color + 0.65 * made_up)[:, :, None])
    beard = torch.sigmoid(3.2 * (c.normal("beard") - 0.1)) * torch.sigmoid(5 * (f.male - 0.1))
    return Palette(
        skin=skin,
        light_skin=tone,
        lips=lips,
        hair=hair,
        iris=ramp(_IRIS, c.uniform("eye_color", 0.0, 1.0) * (0.15 + 0.85 * tone)),
        beard=beard,
        blush=c.uniform("blush", 0.0, 1.0),
        makeup=made_up,
    )


class FacePainter:
    """Paints one batch of faces on the surface points of `hit`."""

    def __init__(self, f: Features, palette: Palette, hit: Hit, pixel: Tensor) -> None:
        """`pixel` `[N,1]`: the width of a pixel in head units."""
        self.f, self.p = f, palette
        self.x, self.y, self.m = hit.x, hit.y, hit.x.abs()
        self.front = torch.sigmoid((hit.z - 0.1) * 12)
        self.pixel = pixel

    def edge(self, distance: Tensor, softness: float = 0.0) -> Tensor:
        """Coverage in (0, 1) of a shape, from the signed distance inside it."""
        return torch.sigmoid(distance / (0.32 * self.pixel + softness))

    def albedo(self) -> Tensor:
        """`[N,3,P]`."""
        return self.eyes(self.brows(self.mouth(self.beard(self.nose(self.skin())))))

    def skin(self) -> Tensor:
        """Blush, shaded sockets, folds beside the nose and mouth, lines on the forehead."""
        f, m, y = self.f, self.m, self.y
        happy = f.smile.clamp_min(0)
        blush = bump(m - 0.58, y - 0.46, 0.26, 0.2) * (
            0.1 + 0.35 * self.p.blush + 0.15 * self.p.makeup
        )
        blush = blush + 0.16 * bump(m, y - f.nose_y, 0.16, 0.12)
        canvas = blend(self.p.skin.expand(-1, -1, m.shape[1]), self.p.skin * _ROSE, blush)
        dark = (0.05 + 0.35 * self.p.makeup) * bump(m - f.eye_x, y + 0.06, 0.27, 0.13)
        dark = dark + (0.06 + 0.3 * f.age) * bump(m - f.eye_x + 0.04, y - 0.16, 0.2, 0.045)
        fold = (y - f.nose_y - 0.03) / 0.42
        away = m - (f.nose_half + 0.06 + (0.17 + 0.06 * happy) * fold)
        fold = torch.exp(-(away / 0.045).square()) * bump(fold - 0.45, fold * 0, 0.42, 1)
        dark = dark + fold * (0.04 + 0.42 * f.age.square() + 0.3 * happy)
        line = torch.cos((y + 0.62) * 42) * bump(m, y + 0.66, 0.5, 0.15)
        dark = dark + line * 0.22 * f.age.square()
        corner = bump(m - f.mouth_half * 1.04, y - f.mouth_line(torch.ones_like(y)), 0.055, 0.06)
        dark = dark + 0.35 * corner * (0.4 + f.smile.abs())
        return blend(canvas, self.p.skin * _SHADE, dark.clamp(0, 1) * self.front)

    def nose(self, canvas: Tensor) -> Tensor:
        """Nostrils, the crease of the wings and the shadow under the tip."""
        f, m, y = self.f, self.m, self.y
        hole = bump(m - 0.46 * f.nose_half, y - f.nose_y - 0.115, 0.062, 0.038)
        under = bump(m, y - f.nose_y - 0.15, 0.2, 0.045)
        wing = bump(m - 1.05 * f.nose_half, y - f.nose_y - 0.05, 0.04, 0.08)
        dark = ((0.72 + 0.24 * f.nose_tip) * hole + 0.28 * under + 0.3 * wing).clamp_max(0.9)
        return blend(canvas, self.p.skin * _DEEP, dark * self.front)

    def beard(self, canvas: Tensor) -> Tensor:
        """Moustache, chin and cheeks up to the ear, with a soft border; a man's shaven shadow."""
        f, m, y = self.f, self.m, self.y
        border = (
            f.mouth_y
            - 0.04
            - 0.75 * (m - 0.42).clamp_min(0).square()
            - 0.45 * (m - 0.5).clamp_min(0)
        )
        moustache = f.mouth_y - 0.2 + 0.9 * (m - 0.1).clamp_min(0).square()
        top = torch.lerp(moustache, border, torch.sigmoid((m - 0.44) * 14))
        area = torch.sigmoid((y - top) / (0.04 + 0.16 * torch.sigmoid((m - 0.4) * 9)))
        bare = bump(m, y - f.mouth_y - 0.27 - f.opening, 0.0 + 0.14, 0.05) * 0.4
        shadow = 0.07 * torch.sigmoid(4 * (f.male - 0.2)) * self.p.light_skin
        amount = (0.9 * self.p.beard + shadow).clamp_max(0.92)
        return blend(canvas, self.p.hair * 0.9 + 0.003, area * amount * (1 - bare))

    def mouth(self, canvas: Tensor) -> Tensor:
        """Lips, and between them, only where they part, the dark of the mouth and the teeth."""
        f, y = self.f, self.y
        u = self.m / f.mouth_half
        ends = (1 - u) * f.mouth_half
        top, upper, lower, bottom = f.lips(u)
        outer = self.edge(torch.minimum(torch.minimum(y - top, bottom - y), ends), 0.008)
        gone = 1 - 0.15 * f.age
        canvas = blend(canvas, self.p.lips, outer * 0.9 * gone * self.front)
        shade = outer * torch.sigmoid((upper - y) / 0.03) * 0.22
        canvas = blend(canvas, self.p.lips * _SHADE, shade * self.front)
        seam = torch.exp(-((y - 0.5 * (upper + lower)) / (0.018 + 0.3 * self.pixel)).square())
        seam = seam * self.edge(ends + 0.03, 0.01) * 0.75
        canvas = blend(canvas, self.p.skin * _DEEP, seam * self.front)
        part = torch.sigmoid((f.opening - 0.055) * 90)
        inside = self.edge(torch.minimum(torch.minimum(y - upper, lower - y), ends)) * part
        cave = linear(50, 12, 15).expand_as(canvas)
        tongue = self.edge(y - (lower - 0.12 * f.opening - 0.03), 0.02) * torch.sigmoid(
            (f.opening - 0.2) * 30
        )
        cave = blend(cave, linear(118, 44, 46), tongue * (1 - u * u).clamp(0, 1) * 0.8)
        row = 0.04 + 0.07 * torch.sigmoid(3 * f.smile)
        teeth = self.edge(upper + row - y) * torch.sigmoid((0.86 - u) * 16)
        cave = blend(cave, linear(236, 230, 218), teeth * 0.92)
        return blend(canvas, cave, inside * self.front)

    def brows(self, canvas: Tensor) -> Tensor:
        """Tapering arcs of hair."""
        m = self.m
        line, half = self.f.brow(m)
        u = (m - self.f.eye_x - 0.01) / 0.34
        distance = half - (self.y - line).abs()
        alpha = (
            self.edge(distance, 0.012)
            * torch.sigmoid((u + 0.98) * 16)
            * torch.sigmoid((1.05 - u) * 11)
        )
        return blend(canvas, self.p.hair * 0.55 + 0.002, alpha * 0.88 * self.front)

    def eyes(self, canvas: Tensor) -> Tensor:
        """White, iris, pupil, a catch-light, the lash line and the crease above it."""
        f = self.f
        u, y = f.eye_local(self.m, self.y)
        side = torch.sign(self.x)
        upper, lower = f.lids(u)
        ends = (1.04 - u.abs()) * f.eye_half
        crease = torch.exp(-((y - upper + 0.085) / 0.028).square()) * torch.sigmoid(ends * 30)
        canvas = blend(canvas, self.p.skin * _DEEP, crease * (0.32 + 0.2 * f.age) * self.front)
        gap = torch.minimum(y - upper, lower - y)
        open_ = self.edge(torch.minimum(gap, ends))
        across = u * f.eye_half
        white = linear(218, 211, 206).expand_as(canvas)
        white = blend(white, linear(120, 92, 84), 0.8 * torch.sigmoid((0.035 - (y - upper)) * 40))
        dx, dy = across - side * f.gaze_x, y + 0.008 - f.gaze_y
        r = (dx * dx + dy * dy).clamp_min(1e-8).sqrt()
        white = blend(white, self.p.iris, self.edge(0.115 - r, 0.008))
        white = blend(white, linear(10, 8, 8), self.edge(0.048 - r, 0.008) * 0.9)
        glint = bump(dx * side + 0.035, dy + 0.04, 0.032, 0.032)
        white = blend(white, linear(255, 255, 255), 0.5 * glint)
        canvas = blend(canvas, white, open_ * self.front)
        lash = torch.minimum(upper, lower)
        width = 0.012 + 0.034 * self.p.makeup + 0.2 * self.pixel
        lashes = torch.exp(-((y - lash) / width).square()) * self.edge(ends + 0.02, 0.01)
        canvas = blend(canvas, linear(26, 16, 14), lashes * 0.85 * self.front)
        below = torch.exp(-((y - lower) / 0.025).square()) * self.edge(ends, 0.01)
        return blend(canvas, self.p.skin * _DEEP, below * 0.4 * self.front)


_ROSE = torch.tensor([1.0, 0.62, 0.6])[None, :, None]
_SHADE = torch.tensor([0.52, 0.42, 0.40])[None, :, None]
_DEEP = torch.tensor([0.22, 0.14, 0.12])[None, :, None]
