"""MobileFaceNet (Chen et al. 2018) for 68 landmarks, as in cunjian/pytorch_face_landmark.

The plan of `mobilefacenet.py` by another hand: PReLU, other names, a linear layer at the end.
"""

from torch import Tensor, nn


class Unit(nn.Module):
    """Convolution, batch norm and, with `act`, a PReLU for each channel."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        padding: int = 0,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.prelu: nn.Module | None = nn.PReLU(outputs) if act else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x))
        return y if self.prelu is None else self.prelu(y)


class Bottleneck(nn.Module):
    """Widen, filter depthwise, narrow without activation; `residual` adds the input."""

    def __init__(self, inputs: int, outputs: int, wide: int, stride: int, residual: bool) -> None:
        super().__init__()
        self.conv = Unit(inputs, wide)
        self.conv_dw = Unit(wide, wide, 3, stride, groups=wide, padding=1)
        self.project = Unit(wide, outputs, act=False)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.conv_dw(self.conv(x)))
        return x + y if self.residual else y


class Stack(nn.Module):
    """`count` residual bottlenecks of one width."""

    def __init__(self, width: int, wide: int, count: int) -> None:
        super().__init__()
        blocks = (Bottleneck(width, width, wide, 1, True) for _ in range(count))
        self.model = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.model(x)
        return y


class Head(nn.Module):
    """7×7 depthwise to one place, a linear layer, batch norm."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.conv_6_dw = Unit(width, width, 7, groups=width, act=False)
        self.linear = nn.Linear(width, outputs, bias=False)
        self.bn = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.linear(self.conv_6_dw(x).flatten(1)))
        return y


class MobileFaceNetLandmarks(nn.Module):
    """cunjian/pytorch_face_landmark: `[N,3,112,112]` BGR in [0, 1] → `[N,points,2]`.

    Points are in widths and heights of the input, x first, iBUG order.
    """

    def __init__(self, points: int = 68) -> None:
        super().__init__()
        self.conv1 = Unit(3, 64, 3, 2, padding=1)
        self.conv2_dw = Unit(64, 64, 3, groups=64, padding=1)
        self.conv_23 = Bottleneck(64, 64, 128, 2, False)
        self.conv_3 = Stack(64, 128, 4)
        self.conv_34 = Bottleneck(64, 128, 256, 2, False)
        self.conv_4 = Stack(128, 256, 6)
        self.conv_45 = Bottleneck(128, 128, 512, 2, False)
        self.conv_5 = Stack(128, 256, 2)
        self.conv_6_sep = Unit(128, 512)
        self.output_layer = Head(512, 2 * points)

    def features(self, x: Tensor) -> Tensor:
        """The last map, `[N,512,7,7]`."""
        x = self.conv_23(self.conv2_dw(self.conv1(x)))
        x = self.conv_4(self.conv_34(self.conv_3(x)))
        features: Tensor = self.conv_6_sep(self.conv_5(self.conv_45(x)))
        return features

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.output_layer(self.features(x))
        return out.reshape(len(out), -1, 2)
