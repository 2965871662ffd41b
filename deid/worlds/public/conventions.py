"""How each public face network wants its picture: crop, size, channel order, mean and deviation.

A world's pictures are FFHQ-aligned squares, RGB in [-1, 1]. FFHQ alignment puts eyes and mouth at
nearly the same place in every picture, so a network's own crop (a detector's box, a five-point
template) is a fixed affine part of that square. It is fixed on purpose: no detector runs inside a
gradient, an embedding is a function of pixels alone, and a batch needs no landmarks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from deid.nets.backbones import at_size

FFHQ_POINTS = ((193.0, 239.9), (318.9, 240.2), (256.6, 314.0), (201.3, 371.4), (313.1, 371.2))
"""Eyes, nose tip, mouth corners in an FFHQ picture of 512 px: the template that face restoration
(GFPGAN, facexlib) aligns to. SCRFD finds them within 7 px of it on average over synthetic faces."""

ARCFACE_POINTS = ((38.29, 51.70), (73.53, 51.50), (56.03, 71.74), (41.55, 92.37), (70.73, 92.20))
"""The same points in InsightFace's template of 112 px, counted from pixel centers."""

FACE_BOX = (0.234, 0.182, 0.769, 0.909)
"""A detector's box in an FFHQ picture, in its widths and heights: SCRFD's mean over 100 synthetic
faces (deviation of an edge 0.03)."""


@dataclass(frozen=True)
class Crop:
    """A parallelogram of the picture that becomes the whole input: `picture = corner + x·across +
    y·down`, with x and y from 0 to 1 over the input, and the picture's sides 1."""

    corner: tuple[float, float]
    across: tuple[float, float]
    down: tuple[float, float]

    def linear(self) -> list[list[float]]:
        """The affine map's matrix, row by row."""
        return [[self.across[0], self.down[0]], [self.across[1], self.down[1]]]


def box(x0: float, y0: float, x1: float, y1: float) -> Crop:
    """An upright crop."""
    return Crop((x0, y0), (x1 - x0, 0.0), (0.0, y1 - y0))


def square(side: float, around: tuple[float, float, float, float] = FACE_BOX) -> Crop:
    """An upright square about the center of a box."""
    x, y = (around[0] + around[2]) / 2, (around[1] + around[3]) / 2
    return box(x - side / 2, y - side / 2, x + side / 2, y + side / 2)


def template(points: Sequence[tuple[float, float]], size: int) -> Crop:
    """The crop whose similarity takes FFHQ's five points to `points`, given for `size` pixels.

    Least squares over similarities. In complex numbers `source ≈ a · target + b`, and both are
    means: a = Σ (source − s̄)(target − t̄)* / Σ |target − t̄|².
    """
    target = [complex(x + 0.5, y + 0.5) / size for x, y in points]
    source = [complex(x, y) / 512 for x, y in FFHQ_POINTS]
    mean_t, mean_s = sum(target) / len(target), sum(source) / len(source)
    pairs = list(zip(source, target, strict=True))
    a = sum((s - mean_s) * (t - mean_t).conjugate() for s, t in pairs)
    a /= sum(abs(t - mean_t) ** 2 for t in target)
    b = mean_s - a * mean_t
    return Crop((b.real, b.imag), (a.real, a.imag), (-a.imag, a.real))


WHOLE = box(0.0, 0.0, 1.0, 1.0)
_WIDTH = FACE_BOX[2] - FACE_BOX[0]  # the shorter side of a face box


@dataclass(frozen=True)
class Convention:
    """A network's input. `mean` and `deviation` are in 0…255, in the network's channel order."""

    size: int
    crop: Crop
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    bgr: bool = False
    antialias: bool = True

    def __call__(self, images: Tensor) -> Tensor:
        """`[N,3,H,W]` RGB in [-1, 1] → what the network reads, `[N,3,size,size]`."""
        # float32 whatever the generator's precision: a bfloat16 place is off by whole pixels.
        pictures = cut(images.float(), self.crop, self.size, self.antialias)
        if self.bgr:
            pictures = pictures.flip(1)
        mean, deviation = (
            pictures.new_tensor(v)[:, None, None] for v in (self.mean, self.deviation)
        )
        return (pictures * 127.5 + (127.5 - mean)) / deviation

    def to_picture(self, points: Tensor, width: int, height: int) -> Tensor:
        """Points `[...,2]` in widths and heights of the input → pixels of the picture."""
        linear = points.new_tensor(self.crop.linear())
        places = points @ linear.T + points.new_tensor(self.crop.corner)
        return places * points.new_tensor([width, height])


def cut(images: Tensor, crop: Crop, size: int, antialias: bool = True) -> Tensor:
    """`crop` of every picture at `size` pixels, differentiable; outside the picture its edge.

    Where the crop shrinks the picture, the picture is shrunk first, with antialiasing, so that
    sampling then neither skips pixels nor leaves gradients only at a few of them.
    """
    if crop == WHOLE:
        if antialias:
            return at_size(images, size)
        return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    height, width = images.shape[-2:]
    tall, wide = (round(size / abs(complex(*side))) for side in (crop.down, crop.across))
    if tall < height or wide < width:
        smaller = (min(tall, height), min(wide, width))
        images = F.interpolate(
            images, size=smaller, mode="bilinear", antialias=True, align_corners=False
        )
    # grid_sample counts from -1 to 1: v = 2p - 1 of p = corner + M q, with q = (u + 1) / 2.
    linear = torch.tensor(crop.linear())
    offset = linear.sum(1) + 2 * torch.tensor(crop.corner) - 1
    theta = torch.cat([linear, offset[:, None]], 1).to(images).expand(len(images), 2, 3)
    grid = F.affine_grid(theta, [len(images), 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _all(value: float) -> tuple[float, float, float]:
    return (value, value, value)


_VGGFACE2_MEAN = (91.4953, 103.8827, 131.0912)
_DLIB_MEAN = (122.782, 117.001, 104.298)
_FACE_SQUARE = box(0.156, 0.234, 0.844, 0.922)
_API_SQUARE = box(0.125, 0.1875, 0.875, 0.9375)

DLIB_CHIP = Crop((0.1526, 0.2530), (0.6878, 0.0), (0.0, 0.6878))
"""The chip that dlib cuts (150 px, padding 0.25) for the mean 68 points of an FFHQ picture."""

CONVENTIONS: Mapping[str, Convention] = {
    # Cao et al. 2018: the box grown by 0.3, shorter side to 256, the middle 224 of it.
    "vggface2_resnet50": Convention(
        224,
        square(_WIDTH * 1.3 * 224 / 256),
        mean=_VGGFACE2_MEAN,
        deviation=(1.0, 1.0, 1.0),
        bgr=True,
    ),
    # InsightFace's `norm_crop`: a similarity onto five points.
    "iresnet": Convention(112, template(ARCFACE_POINTS, 112), _all(127.5), _all(127.5)),
    # facenet-pytorch's `extract_face`: the box without margin, stretched to a square.
    "inception_resnet_v1": Convention(160, box(*FACE_BOX), _all(127.5), _all(128.0)),
    "mobilefacenet": Convention(
        112,
        template(ARCFACE_POINTS, 112),
        mean=(123.675, 116.28, 103.53),  # ImageNet's, times 255
        deviation=(58.395, 57.12, 57.375),
    ),
    # The repository's own demonstration: a square of 1.2 times the box's shorter side.
    "mobilefacenet68": Convention(112, square(_WIDTH * 1.2), _all(0.0), _all(255.0), bgr=True),
    # O-Net, which has the five points. In the cascade it sees a squared box of the network before;
    # sides from 0.5 to 0.65 do equally well (eyes of 100 synthetic portraits, against SCRFD's).
    "mtcnn": Convention(48, square(0.62), _all(127.5), _all(128.0)),
    # What torchvision's `transform_input` makes of ImageNet's mean and deviation: [-1, 1].
    "inception_v3": Convention(299, WHOLE, _all(127.5), _all(127.5)),
    # pytorch-fid: bilinear without antialiasing; a FID from another resize has other values.
    "fid_inception": Convention(299, WHOLE, _all(127.5), _all(127.5), antialias=False),
    "hse_face": Convention(224, _FACE_SQUARE, _VGGFACE2_MEAN, _all(1.0), bgr=True),
    "mobilefacenet_tf": Convention(112, template(ARCFACE_POINTS, 112), _all(127.5), _all(128.0)),
    "mobile_face": Convention(112, template(ARCFACE_POINTS, 112), _all(127.5), _all(128.0)),
    "dlib_resnet": Convention(150, DLIB_CHIP, _DLIB_MEAN, _all(256.0)),
    # Both face-api's and Google's were trained on a detector's box with something around it.
    "face_landmark68": Convention(112, _API_SQUARE, _DLIB_MEAN, _all(255.0)),
    "face_api_expression": Convention(112, _API_SQUARE, _DLIB_MEAN, _all(255.0)),
    "face_mesh": Convention(192, box(0.047, 0.078, 0.953, 0.984), _all(0.0), _all(255.0)),
    # As En_expr: what a swap draws anew, with what shows pose and light; not all the background.
    "efficientnet_lite0": Convention(128, box(0.11, 0.15, 0.89, 0.93), _all(127.0), _all(128.0)),
}
"""By the network's name in `deid.weights.importers.NETWORKS`. LPIPS takes a world's pictures as
they are."""
