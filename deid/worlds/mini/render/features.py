"""Where eyes, brows, nose and mouth are, after identity and expression have had their say.

Positions are head coordinates of the frontal projection (see `head.py`); all fields `[N,1]`. The
painter and the landmarks read the same curves, so that landmarks lie where the features are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from deid.worlds.mini.render.parameters import Columns


@dataclass(frozen=True)
class Features:
    """The curves of a face."""

    male: Tensor  # (-1, 1)
    age: Tensor  # (0, 1): about 18 to 80
    eye_x: Tensor
    eye_half: Tensor
    eye_tilt: Tensor
    lid_upper: Tensor  # highest point of the upper lid above the corners; negative when closed
    lid_lower: Tensor
    gaze_x: Tensor
    gaze_y: Tensor
    brow_y: Tensor
    brow_half: Tensor  # half thickness
    brow_arch: Tensor
    brow_tilt: Tensor  # > 0: inner end up
    nose_y: Tensor
    nose_half: Tensor
    nose_tip: Tensor  # (-1, 1): > 0 a large, raised tip
    mouth_y: Tensor
    mouth_half: Tensor
    lip_upper: Tensor
    lip_lower: Tensor
    smile: Tensor  # (-1, 1)
    opening: Tensor  # height between the lips

    def eye_local(self, m: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Position in the eye: u from -1 (inner corner) to 1, and y below the line of corners."""
        across = m - self.eye_x
        return across / self.eye_half, y + self.eye_tilt * across

    def lids(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Upper and lower lid, y below the line of corners."""
        k = (1 - u * u).clamp_min(0.0)
        skew = 1 - 0.22 * u
        return -self.lid_upper * k * (0.72 + 0.28 * k) * skew, self.lid_lower * k

    def brow(self, m: Tensor) -> tuple[Tensor, Tensor]:
        """Middle line and half thickness of the brow at m."""
        u = (m - self.eye_x - 0.01) / 0.34
        line = self.brow_y - self.brow_arch * (1 - (u - 0.2) ** 2) + self.brow_tilt * (u - 0.3)
        return line, self.brow_half * (0.95 - 0.45 * torch.sigmoid(3.5 * (u - 0.3)))

    def mouth_line(self, u: Tensor) -> Tensor:
        """Where closed lips meet: u from -1 to 1 between the corners."""
        return self.mouth_y + 0.03 * self.smile - 0.17 * self.smile * u * u

    def lips(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Upper edge, inner upper, inner lower and lower edge of the lips."""
        k = (1 - u * u).clamp_min(0.0)
        line = self.mouth_line(u)
        round_ = k.sqrt() * 0.55 + 0.45 * k
        upper = line - 0.30 * self.opening * round_
        lower = line + 0.70 * self.opening * round_
        bow = 1 - 0.30 * torch.exp(-((u / 0.16) ** 2))
        return upper - self.lip_upper * bow * k, upper, lower, lower + self.lip_lower * k.sqrt() * k


def features_of(c: Columns) -> Features:
    """The features of a batch."""
    male = torch.tanh(1.5 * c.normal("sex"))
    drawn = torch.tanh(0.9 * c.normal("smile") + 0.25)
    smile = torch.where(drawn > 0, drawn, 0.6 * drawn)
    pucker = c.bell("pucker", 1.0, 0.6)
    gape = torch.sigmoid(4.0 * (c.normal("mouth_open") - 0.85))
    raised = c.bell("brow_raise", 1.0, 0.8)
    frown = c.bell("frown", 1.0, 0.7)
    size = c.uniform("eye_size", 0.195, 0.295) - 0.006 * male
    wide = 0.94 + 0.30 * torch.tanh(0.9 * (c.normal("eye_open") + 0.15))
    wide = wide - 0.62 * torch.sigmoid(5 * (-1.3 - c.normal("eye_open")))
    happy = smile.clamp_min(0)
    round_ = c.uniform("eye_roundness", 0.36, 0.72)
    brow_y = c.uniform("brow_height", -0.245, -0.405)
    lip_thin = 1 - 0.22 * happy - 0.25 * gape
    return Features(
        male=male,
        age=c.uniform("age", 0.0, 1.0),
        eye_x=c.uniform("eye_spacing", 0.385, 0.505) + 0.01,
        eye_half=size,
        eye_tilt=c.uniform("eye_tilt", -0.18, 0.26),
        lid_upper=size * round_ * (wide + 0.25 * raised.clamp_min(0)) - 0.004,
        lid_lower=size * (0.30 - 0.16 * happy) * (0.6 + 0.4 * wide.clamp_max(1.0)) + 0.004,
        gaze_x=c.bell("gaze_x", 0.125, 0.8),
        gaze_y=c.bell("gaze_y", 0.055, 0.6),
        brow_y=brow_y + 0.02 * male - 0.07 * raised + 0.03 * frown,
        brow_half=c.uniform("brow_thickness", 0.022, 0.085) + 0.012 * male,
        brow_arch=c.uniform("brow_arch", -0.01, 0.15) - 0.015 * male,
        brow_tilt=c.uniform("brow_tilt", -0.07, 0.07) - 0.055 * frown,
        nose_y=c.uniform("nose_length", 0.47, 0.68),
        nose_half=c.uniform("nose_width", 0.14, 0.27) + 0.012 * male + 0.02 * happy,
        nose_tip=c.uniform("nose_tip", -1.0, 1.0),
        mouth_y=c.uniform("mouth_height", 0.89, 1.08),
        mouth_half=c.uniform("mouth_width", 0.275, 0.44) * (1 + 0.19 * smile - 0.12 * pucker),
        lip_upper=(c.uniform("upper_lip", 0.04, 0.14) + 0.02 * pucker - 0.01 * male) * lip_thin,
        lip_lower=(c.uniform("lower_lip", 0.06, 0.175) + 0.02 * pucker - 0.01 * male) * lip_thin,
        smile=smile,
        opening=0.36 * gape + 0.11 * (1 - gape) * torch.sigmoid(10 * (smile - 0.6)),
    )
