"""The photo world's networks behind the world's protocols (`deid.worlds.world`).

Each has its own fixed crop of an FFHQ-aligned picture (`CONVENTIONS`): alignment puts the parts of a
face at nearly the same place in every picture.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn

from deid.nets.efficientnet_lite import EfficientNetLite0
from deid.worlds.ffhq.conventions import (
    ARCFACE_POINTS,
    WHOLE,
    Convention,
    Crop,
    box,
    template,
)

FID_LABEL = "FID (EfficientNet-Lite0 features)"
LPIPS_LABEL = "LPIPS-form distance (EfficientNet-Lite0 features)"
PERCEPTUAL_STAGES = 5
"""How many of EfficientNet's stages tell pictures apart: to 1/16 of the side."""

DLIB_CROP = Crop((0.1526, 0.2076), (0.7007, 0.0), (0.0, 0.7007))
"""dlib's chip of 150 px with padding 0.25, for the mean 68 points of an FFHQ picture."""

_FACE = box(40 / 256, 60 / 256, 216 / 256, 236 / 256)
_ALL = (127.5, 127.5, 127.5)
_NONE, _WHITE = (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)
_DLIB_MEAN = (122.782, 117.001, 104.298)
_IMAGENET_LITE = ((127.0, 127.0, 127.0), (128.0, 128.0, 128.0))

CONVENTIONS = {
    # Caffe's: BGR less VGGFace2's mean.
    "hse_face": Convention(224, _FACE, (91.4953, 103.8827, 131.0912), (1.0, 1.0, 1.0), bgr=True),
    "mobile_face": Convention(112, template(ARCFACE_POINTS, 112), _ALL, (128.0, 128.0, 128.0)),
    "dlib_resnet": Convention(150, DLIB_CROP, _DLIB_MEAN, (256.0, 256.0, 256.0)),
    # Both are trained on a detector's box, with a little around it.
    "face_landmark68": Convention(112, box(0.125, 0.1875, 0.875, 0.9375), _DLIB_MEAN, _WHITE),
    "face_mesh": Convention(192, box(6 / 128, 10 / 128, 122 / 128, 126 / 128), _NONE, _WHITE),
    # What a swap draws anew, with what tells pose and light; not hair and background.
    "expression": Convention(128, box(0.11, 0.15, 0.89, 0.93), *_IMAGENET_LITE),
    "perceptual": Convention(224, WHOLE, *_IMAGENET_LITE),
}
"""By the network's name here."""

LIPS = (
    *(61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 308, 324, 318, 402, 14, 87, 178, 88, 95),
    *(185, 40, 39, 37, 0, 267, 269, 270, 409, 415, 310, 311, 312, 13, 82, 81, 80, 191, 78),
)
LIDS = (
    *(33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173),
    *(263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398),
)
"""Points of Face Mesh on the lips' outer and inner edges and on the eyelids."""


class MeshPoints(nn.Module):
    """Lips and lids: `[N,3,H,W]` → `[N,71,2]` in pixels of the input, x first.

    The 68 landmarks hardly tell an open mouth or a closed eye; Face Mesh does.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.convention = CONVENTIONS["face_mesh"]

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        points = self.network(self.convention(images))[:, [*LIPS, *LIDS], :2]
        return self.convention.to_picture(points / self.convention.size, width, height)


class EfficientNetPerceptual(nn.Module):
    """Perceptual comparisons in EfficientNet-Lite0's features (`PerceptualNetwork`).

    `distance` has LPIPS's form (Zhang et al. 2018, equation 1) with uniform weights over channels,
    places and the first `PERCEPTUAL_STAGES` stages.
    """

    fid_label, lpips_label = FID_LABEL, LPIPS_LABEL

    def __init__(self, network: EfficientNetLite0) -> None:
        super().__init__()
        self.network = network
        self.convention = CONVENTIONS["perceptual"]

    def pooled(self, images: Tensor) -> Tensor:
        """`[N,3,H,W]` → `[N,1280]`."""
        features: Tensor = self.network(self.convention(images))
        return features

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """`[N]` ≥ 0, for two batches of pictures `[N,3,H,W]`; 0 for equal pictures."""
        layers = zip(self._stages(a), self._stages(b), strict=True)
        differences = [_unit(x).sub(_unit(y)).square().sum(1).mean((1, 2)) for x, y in layers]
        return torch.stack(differences).mean(0)

    def _stages(self, images: Tensor) -> list[Tensor]:
        return self.network.maps(self.convention(images))[:PERCEPTUAL_STAGES]


def _unit(features: Tensor) -> Tensor:
    return features * torch.rsqrt(features.square().sum(1, keepdim=True) + 1e-10)


Net = TypeVar("Net", bound=nn.Module)


def frozen(network: Net) -> Net:
    """In eval mode, without gradients for its weights."""
    return network.eval().requires_grad_(False)
