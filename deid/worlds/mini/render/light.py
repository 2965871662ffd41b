"""Light: one soft lamp, light from all around, and the warmth of both."""

from dataclasses import dataclass

import torch
from torch import Tensor

from deid.worlds.mini.render.head import Vector
from deid.worlds.mini.render.parameters import Columns


@dataclass(frozen=True)
class Light:
    """Direction to the lamp in camera coordinates, `[N,1]` each, and colors `[N,3,1]`."""

    direction: Vector
    lamp: Tensor
    ambient: Tensor

    def on(self, normal: Vector, wrap: float = 0.25) -> Tensor:
        """Light `[N,3,P]` arriving at surfaces with unit `normal` (camera coordinates)."""
        lx, ly, lz = self.direction
        facing = lx * normal[0] + ly * normal[1] + lz * normal[2]
        facing = ((facing + wrap) / (1 + wrap)).clamp_min(0.0)
        sky = 0.84 - 0.16 * normal[1]
        return self.lamp * facing[:, None] + self.ambient * sky[:, None]

    def gloss(self, normal: Vector, power: int = 16) -> Tensor:
        """Blinn highlight `[N,P]` for a viewer along +z; `power` a power of two."""
        lx, ly, lz = self.direction
        scale = torch.rsqrt(lx * lx + ly * ly + (lz + 1) ** 2)
        shine = (lx * normal[0] + ly * normal[1] + (lz + 1) * normal[2]) * scale
        shine = shine.clamp_min(0.0)
        while power > 1:
            shine, power = shine * shine, power // 2
        return shine


def light_of(c: Columns) -> Light:
    """The light of each picture: always enough to see the face by."""
    azimuth = c.bell("azimuth", 1.05, 0.7)
    elevation = 0.45 + c.bell("elevation", 0.6, 0.6)
    cos = torch.cos(elevation)
    direction = (torch.sin(azimuth) * cos, -torch.sin(elevation), torch.cos(azimuth) * cos)
    ambient = c.uniform("ambient", 0.36, 0.68)[:, :, None]
    warm = c.bell("warmth", 0.22, 0.6)[:, :, None]
    tint = torch.cat([1 + warm, torch.ones_like(warm), 1 - warm], dim=1)
    return Light(
        direction, lamp=(1.12 - ambient) * 0.98 * tint, ambient=ambient * (2 - tint) ** 0.5
    )
