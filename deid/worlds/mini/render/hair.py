"""Hair: a shell around the skull that ends at the hairline, and a fall of hair behind the neck."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from deid.worlds.mini.render.features import Features
from deid.worlds.mini.render.head import Hit, Shape
from deid.worlds.mini.render.parameters import Columns


@dataclass(frozen=True)
class Hair:
    """A haircut; all fields `[N,1]`."""

    front: Tensor  # height of the hairline over the forehead
    side: Tensor  # how far it comes down in front of the ears
    parting: Tensor  # slant of the hairline, (-1, 1)
    bare: Tensor  # 1: only a wreath is left
    density: Tensor  # 0: shaven
    long: Tensor  # 0 short … 1 over the shoulders
    thick: Tensor

    def shell(self, shape: Shape) -> Shape:
        """The outside of the hair; it hangs straighter than the jaw."""
        lift = self.thick * (1 - 0.75 * self.bare) + 0.015
        return replace(
            shape,
            width=shape.width * (1 + 0.75 * lift),
            depth=shape.depth * (1 + 0.5 * lift),
            top=shape.top + 0.9 * lift,
            bottom=shape.bottom + 0.8,
            taper=shape.taper * (0.75 - 0.6 * self.long),
            point=0 * shape.point,
            cheek=0 * shape.cheek,
        )

    def cover(self, hit: Hit, drop: float = 0.0, softness: float = 0.05) -> Tensor:
        """How much hair `[N,P]` is at the points of the shell; `drop` moves the hairline down."""
        cos = hit.z * torch.rsqrt(hit.x * hit.x + hit.z * hit.z + 1e-4)
        front = self.front + 0.30 * hit.x * hit.x + 0.3 * self.parting * hit.x + drop
        beside = torch.sigmoid((0.34 + drop - cos) * 10)
        line = torch.lerp(front, self.side.expand_as(front), beside)
        cover = torch.sigmoid((line - hit.y) / softness)
        wreath = torch.sigmoid((hit.y + 0.72) * 9)
        return cover * (1 - self.bare * (1 - wreath)) * self.density

    def behind(self, hit: Hit) -> Tensor:
        """How much hair `[N,P]` the far side of the shell shows, where no head is before it."""
        low = torch.sigmoid((self.side.clamp_max(0.9) - hit.y) / 0.06)
        return low * (1 - self.bare * torch.sigmoid((-0.72 - hit.y) * 9)) * self.density

    def fall(self, u: Tensor, v: Tensor, width: Tensor) -> Tensor:
        """Signed distance `[N,P]` inside the hanging hair; u, v from the skull's middle."""
        end = 0.3 + 1.9 * self.long
        r = (v.clamp_min(0.0) / end).clamp_max(1.0)
        half = width * (0.92 + 0.9 * self.thick) * (1 - r**4).clamp_min(1e-4).sqrt()
        return torch.minimum(half - u.abs(), torch.minimum(end - v, v + 0.4))


def hair_of(c: Columns, f: Features, shape: Shape) -> Hair:
    """Haircuts: long hair is commoner on women, baldness on older men."""
    bald = c.normal("baldness") + 0.9 * f.male + 1.2 * (f.age - 0.5)
    bare = torch.sigmoid(4 * (bald - 1.7))
    fringe = c.above("fringe", 0.55, 2.6) * (1 - bare)
    recede = torch.sigmoid(2.5 * (bald - 0.9))
    long = torch.sigmoid(2.2 * (c.normal("hair_length") + 0.15 - 1.25 * f.male)) * (1 - bare)
    return Hair(
        front=-0.66 * shape.top + 0.46 * fringe - 0.16 * recede - 0.5 * bare,
        side=0.20 + 0.75 * long,
        parting=c.bell("parting", 1.0, 0.6) * (0.35 + 0.5 * fringe),
        bare=bare,
        density=1 - torch.sigmoid(5 * (bald - 2.6)),
        long=long,
        thick=c.uniform("hair_volume", 0.05, 0.22) + 0.04 * long,
    )
