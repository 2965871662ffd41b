"""MediaPipe's Face Mesh (Kartynnik et al. 2019, arXiv 1907.06724): 468 points in 3D.

Residual blocks of a depthwise 3×3 and a 1×1; where a block strides, its shortcut is max-pooled and
padded with empty channels. Only the branch of the mesh is kept, not those of contours and presence.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from deid.nets.tensorflow import SameConv2d

POINTS, SIZE = 468, 192
TRUNK = (
    (16, 1),
    (16, 1),
    *((32, 2), (32, 1), (32, 1)),
    *((64, 2), (64, 1), (64, 1)),
    *((128, 2), (128, 1), (128, 1)),
    *((128, 2), (128, 1), (128, 1)),
    *((128, 2), (128, 1), (128, 1)),
)
"""Outputs and stride of each block; the last three belong to the branch of the mesh."""


class Block(nn.Module):
    """`[N,inputs,n,n]` → `[N,outputs,n/stride,n/stride]`."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = SameConv2d(inputs, inputs, 3, stride, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1)
        self.act = nn.PReLU(outputs)
        self.stride, self.empty = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        shortcut = F.max_pool2d(x, 2) if self.stride == 2 else x
        shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.empty))
        y: Tensor = self.act(self.pointwise(self.depthwise(x)) + shortcut)
        return y


class FaceMesh(nn.Module):
    """`[N,3,192,192]` RGB in [0, 1] → points `[N,468,3]`: x, y, depth in pixels of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(SameConv2d(3, 16, 3, 2), nn.PReLU(16))
        self.blocks = nn.Sequential()
        before = 16
        for outputs, stride in TRUNK:
            self.blocks.append(Block(before, outputs, stride))
            before = outputs
        self.narrow = nn.Sequential(nn.Conv2d(before, 32, 1), nn.PReLU(32))
        self.last = Block(32, 32)
        self.mesh = nn.Conv2d(32, POINTS * 3, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = self.last(self.narrow(self.blocks(self.stem(x))))
        points: Tensor = self.mesh(features)
        return points.reshape(len(x), POINTS, 3)
