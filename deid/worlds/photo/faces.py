"""The photo world's own adapters to the world's protocols (`deid.worlds.world`)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deid.nets.efficientnet_lite import EfficientNetLite0
from deid.nets.face_api import FaceApiNet
from deid.nets.hse_face import HseFaceNet
from deid.worlds.public.conventions import CONVENTIONS, WHOLE, Convention

PERCEPTUAL_STAGES = 5
"""How many of EfficientNet's stages tell pictures apart: to 1/16 of the side."""
_WHOLE_PICTURE = Convention(224, WHOLE, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0))

LIPS = (
    *(61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 308, 324, 318, 402, 14, 87, 178, 88, 95),
    *(185, 40, 39, 37, 0, 267, 269, 270, 409, 415, 310, 311, 312, 13, 82, 81, 80, 191, 78),
)
LIDS = (
    *(33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173),
    *(263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398),
)
"""Points of Face Mesh on the lips' outer and inner edges and on the eyelids."""

EYES = (33, 263)
"""The outer corners."""

CENTER = (0.5, 0.6)
"""Between eyes and mouth of an aligned face, in sides of the picture; a face's own points are
spread about it by a fortieth."""

OPENINGS = {
    (13, 14): (0.068, 0.056),
    (81, 178): (0.062, 0.047),
    (311, 402): (0.062, 0.047),
    (0, 17): (0.225, 0.057),
    (61, 291): (0.653, 0.070),
    (78, 308): (0.570, 0.063),
    (159, 145): (0.100, 0.013),
    (158, 153): (0.092, 0.012),
    (160, 144): (0.083, 0.012),
    (386, 374): (0.098, 0.013),
    (385, 380): (0.091, 0.012),
    (387, 373): (0.082, 0.012),
}
"""Opposite points of lips and lids: mean and spread of their distance, in that of the eyes' outer
corners, over 400 generated faces."""


class MeshPoints(nn.Module):
    """Lips and lids: `[N,3,H,W]` → `[N,71,2]` in pixels of the input, x first (`ContourNetwork`).

    The 68 landmarks hardly tell an open mouth or a closed eye; Face Mesh does.
    """

    usual: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.convention = CONVENTIONS["face_mesh"]
        self.register_buffer("usual", torch.tensor(list(OPENINGS.values())).T)  # [2,K]
        self.dim = 2 * len(LIPS + LIDS) + len(OPENINGS)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        points = self.network(self.convention(images))[:, [*LIPS, *LIDS], :2]
        return self.convention.to_picture(points / self.convention.size, width, height)

    def openings(self, points: Tensor) -> Tensor:
        """Of points `[N,71,2]` in any unit → `[N,12]`, in spreads from the mean (`OPENINGS`)."""
        mean, spread = self.usual
        *distances, width = [_distance_between(points, *pair) for pair in (*OPENINGS, EYES)]
        openings: Tensor = (torch.stack(distances, 1) / width[:, None] - mean) / spread
        return openings

    def code(self, images: Tensor) -> Tensor:
        """The points from `CENTER` in fortieths of the side, and the openings: `[N,3,H,W]` →
        `[N,154]`."""
        points: Tensor = self(images)
        places = points / images.shape[-1] - points.new_tensor(CENTER)
        return torch.cat([places.flatten(1) * 40.0, self.openings(points)], 1)


def _distance_between(points: Tensor, a: int, b: int) -> Tensor:
    """Of two points, named as Face Mesh does, `[N]`."""
    at = (LIPS + LIDS).index
    length: Tensor = (points[:, at(a)] - points[:, at(b)]).norm(dim=1)
    return length


class Looks(nn.Module):
    """Age, sex and skin: `[N,3,H,W]` → `[N,5]` (`LooksNetwork`).

    Age and sex are what HSE_FaceRec's heads say, skin is the mean color of nose and cheeks in Lab
    (CIE 1976, D65), all in steps that one sees: 12 years, a third of certainty, 8 of lightness, 5
    of a and b.
    """

    steps: Tensor

    def __init__(self, network: HseFaceNet) -> None:
        super().__init__()
        self.network = network
        self.convention = CONVENTIONS["hse_face"]
        self.register_buffer("steps", torch.tensor([12.0, 1 / 3, 8.0, 5.0, 5.0]))

    def forward(self, images: Tensor) -> Tensor:
        return self._looks(images, self.network(self.convention(images)))

    def with_code(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """En_id's codes too, of the same pass (`LooksOfIdentity`)."""
        features = self.network(self.convention(images))
        return F.normalize(features.float(), dim=1), self._looks(images, features)

    def _looks(self, images: Tensor, features: Tensor) -> Tensor:
        person = torch.stack([self.network.years(features), self.network.male(features)], 1)
        height, width = images.shape[-2:]
        top, bottom = round(0.54 * height), round(0.64 * height)
        skin = images[:, :, top:bottom, round(0.34 * width) : round(0.66 * width)].mean((2, 3))
        return torch.cat([person, lab((skin + 1) / 2)], 1) / self.steps

    def age_and_sex(self, images: Tensor) -> Tensor:
        """Years, and how likely a man is shown, `[N,2]`."""
        person: Tensor = self(images)[:, :2] * self.steps[:2]
        return person


def lab(rgb: Tensor) -> Tensor:
    """sRGB in 0…1, `[N,3]` → L, a, b (CIE 1976, D65)."""
    rgb = rgb.clamp(0, 1)
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = linear.new_tensor(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = linear @ to_xyz.T / linear.new_tensor([0.95047, 1.0, 1.08883])
    x, y, z = torch.where(xyz > 0.008856, xyz ** (1 / 3), 7.787 * xyz + 16 / 116).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


class EfficientNetPerceptual(nn.Module):
    """Perceptual comparisons in EfficientNet-Lite0's features (`PerceptualNetwork`).

    `distance` compares the first `PERCEPTUAL_STAGES` stages.
    """

    def __init__(self, network: EfficientNetLite0) -> None:
        super().__init__()
        self.network = network
        self.convention = _WHOLE_PICTURE

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """`[N]` ≥ 0, for two batches of pictures `[N,3,H,W]`; 0 for equal pictures."""
        return _distance(self._stages(a), self._stages(b))

    def _stages(self, images: Tensor) -> list[Tensor]:
        return self.network.maps(self.convention(images))[:PERCEPTUAL_STAGES]


class FaceApiMetrics(nn.Module):
    """Figures of a report in the features of face-api's expression network (`MetricNetwork`).

    It has no part in any training here; it sees faces only, 112 px.
    """

    fid_label = "FID (face-api expression features)"
    lpips_label = "LPIPS-form distance (face-api expression features)"

    def __init__(self, network: FaceApiNet) -> None:
        super().__init__()
        self.network = network
        self.convention = CONVENTIONS["face_api_expression"]

    def pooled(self, images: Tensor) -> Tensor:
        """`[N,3,H,W]` → `[N,256]`."""
        return self.network.maps(self.convention(images))[-1].mean((2, 3))

    def expression(self, images: Tensor) -> Tensor:
        """How likely each of seven expressions is, `[N,3,H,W]` → `[N,7]`."""
        likely: Tensor = self.network(self.convention(images)).softmax(1)
        return likely

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """`[N]` ≥ 0, for two batches of pictures `[N,3,H,W]`; 0 for equal pictures."""
        maps = (self.network.maps(self.convention(images)) for images in (a, b))
        return _distance(*maps)


def _distance(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """LPIPS's form (Zhang et al. 2018, equation 1), every channel, place and layer alike."""
    differences = [
        _unit(x).sub(_unit(y)).square().sum(1).mean((1, 2)) for x, y in zip(a, b, strict=True)
    ]
    return torch.stack(differences).mean(0)


def _unit(features: Tensor) -> Tensor:
    return features * torch.rsqrt(features.square().sum(1, keepdim=True) + 1e-10)
