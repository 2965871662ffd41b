"""Inception-ResNet-v1 (Szegedy et al. 2016) as FaceNet, in the names of facenet-pytorch."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-3
"""Of batch norm; TensorFlow's default, in which the public weights were trained."""


class Unit(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Branches(nn.Module):
    """`branch0`, `branch1`, … side by side, their maps concatenated."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        for index, branch in enumerate(branches):
            self.add_module(f"branch{index}", branch)

    def side_by_side(self, x: Tensor) -> Tensor:
        """Every branch's map of `x`, along the channels."""
        found = [m(x) for name, m in self.named_children() if name.startswith("branch")]
        return torch.cat(found, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.side_by_side(x)


class Residual(Branches):
    """Branches, a 1×1 convolution back to the input's width, scaled and added to the input."""

    def __init__(
        self, width: int, scale: float, *branches: nn.Module, middle: int, relu: bool = True
    ) -> None:
        super().__init__(*branches)
        self.conv2d = nn.Conv2d(middle, width, 1)
        self.scale = scale
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2d(self.side_by_side(x)) * self.scale + x
        return F.relu(y) if self.relu else y


def block35() -> Residual:
    """35×35 maps in the paper; 17×17 for the 160-px input."""
    two = nn.Sequential(Unit(256, 32), Unit(32, 32, 3, 1, 1))
    three = nn.Sequential(Unit(256, 32), Unit(32, 32, 3, 1, 1), Unit(32, 32, 3, 1, 1))
    return Residual(256, 0.17, Unit(256, 32), two, three, middle=96)


def block17() -> Residual:
    """17×17 maps in the paper."""
    wide, tall = Unit(128, 128, (1, 7), 1, (0, 3)), Unit(128, 128, (7, 1), 1, (3, 0))
    factored = nn.Sequential(Unit(896, 128), wide, tall)
    return Residual(896, 0.10, Unit(896, 128), factored, middle=256)


def block8(scale: float = 0.20, relu: bool = True) -> Residual:
    """8×8 maps in the paper."""
    wide, tall = Unit(192, 192, (1, 3), 1, (0, 1)), Unit(192, 192, (3, 1), 1, (1, 0))
    factored = nn.Sequential(Unit(1792, 192), wide, tall)
    return Residual(1792, scale, Unit(1792, 192), factored, middle=384, relu=relu)


class InceptionResnetV1(nn.Module):
    """`[N,3,160,160]` RGB, (x − 127.5) / 128 → unit vectors `[N,dim]`."""

    def __init__(self, dim: int = 512) -> None:
        super().__init__()
        self.conv2d_1a = Unit(3, 32, 3, 2)
        self.conv2d_2a = Unit(32, 32, 3)
        self.conv2d_2b = Unit(32, 64, 3, 1, 1)
        self.conv2d_3b = Unit(64, 80)
        self.conv2d_4a = Unit(80, 192, 3)
        self.conv2d_4b = Unit(192, 256, 3, 2)
        self.repeat_1 = nn.Sequential(*(block35() for _ in range(5)))
        long = nn.Sequential(Unit(256, 192), Unit(192, 192, 3, 1, 1), Unit(192, 256, 3, 2))
        self.mixed_6a = Branches(Unit(256, 384, 3, 2), long, nn.MaxPool2d(3, 2))
        self.repeat_2 = nn.Sequential(*(block17() for _ in range(10)))
        first = nn.Sequential(Unit(896, 256), Unit(256, 384, 3, 2))
        second = nn.Sequential(Unit(896, 256), Unit(256, 256, 3, 2))
        third = nn.Sequential(Unit(896, 256), Unit(256, 256, 3, 1, 1), Unit(256, 256, 3, 2))
        self.mixed_7a = Branches(first, second, third, nn.MaxPool2d(3, 2))
        self.repeat_3 = nn.Sequential(*(block8() for _ in range(5)))
        self.block8 = block8(scale=1.0, relu=False)
        self.last_linear = nn.Linear(1792, dim, bias=False)
        self.last_bn = nn.BatchNorm1d(dim, eps=EPSILON)
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x)))
        x = self.conv2d_3b(F.max_pool2d(x, 3, 2))
        x = self.repeat_1(self.conv2d_4b(self.conv2d_4a(x)))
        x = self.repeat_2(self.mixed_6a(x))
        x = self.block8(self.repeat_3(self.mixed_7a(x)))
        x = self.last_linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return F.normalize(self.last_bn(x), dim=1)
