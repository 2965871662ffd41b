"""Layers as TensorFlow computes them."""

from torch import Tensor, nn
from torch.nn import functional as F


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: no more than needed, the odd pixel last.

    With a stride this is not what torch's symmetric padding gives.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (_padding(side, kernel, stride) for side in x.shape[-2:])
        if height[0] == height[1] and width[0] == width[1]:  # then no padded copy is needed
            padding = height[0], width[0]
            return F.conv2d(x, self.weight, self.bias, stride, padding, groups=self.groups)
        return super().forward(F.pad(x, (*width, *height)))


def _padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """Pixels before and after."""
    whole = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return whole // 2, whole - whole // 2
