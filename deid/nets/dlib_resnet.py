"""dlib's face recognizer (King 2017): ResNet-29, 128-D.

`dlib_face_recognition_resnet_model_v1.dat`. Batch norms are folded into affine layers of a scale
and a shift. Where a block halves the picture, its shortcut is a 2×2 mean, padded with zeros to the
other branch's channels and size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PLAN = (
    *((32, False),) * 3,
    (64, True),
    *((64, False),) * 3,
    (128, True),
    *((128, False),) * 2,
    (256, True),
    *((256, False),) * 2,
    (256, True),
)
"""Width of each block and whether it halves the picture; the stem has 32."""


class Affine(nn.Module):
    """A scale and a shift for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale[:, None, None] + self.shift[:, None, None]


class Convolution(nn.Module):
    """Convolution with bias, then its affine layer."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding)
        self.affine = Affine(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.affine(self.convolution(x))
        return y


class Residual(nn.Module):
    """Two 3×3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, width: int, down: bool) -> None:
        super().__init__()
        # A strided convolution of dlib's is not padded.
        self.first = Convolution(inputs, width, 3, 2 if down else 1, 0 if down else 1)
        self.second = Convolution(width, width, 3, 1, 1)
        self.down = down

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.relu(self.first(x)))
        if self.down:
            x = F.avg_pool2d(x, 2)
            x = F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
            height, width = (max(a, b) for a, b in zip(x.shape[2:], y.shape[2:], strict=True))
            x, y = _padded(x, height, width), _padded(y, height, width)
        return F.relu(x + y)


def _padded(x: Tensor, height: int, width: int) -> Tensor:
    return F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2]))


class DlibResNet(nn.Module):
    """`[N,3,150,150]` RGB less its mean, over 256 → `[N,128]`, not normalized.

    dlib compares codes by Euclidean distance; its usual threshold for one person is 0.6.
    """

    dim = 128

    def __init__(self) -> None:
        super().__init__()
        self.stem = Convolution(3, 32, 7, 2, 0)
        self.blocks = nn.Sequential()
        before = 32
        for width, down in PLAN:
            self.blocks.append(Residual(before, width, down))
            before = width
        self.project = nn.Linear(before, self.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2)
        code: Tensor = self.project(self.blocks(x).mean((2, 3)))
        return code
