"""ResNet-50 as trained on VGGFace2 (Cao et al. 2018): Caffe's, not torchvision's.

It differs where Caffe does: a bottleneck strides in its first 1×1 convolution, and the max-pool
after the stem has no padding but rounds up. Names are those of cydonia999/VGGFace2-pytorch.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

EXPANSION = 4


class Bottleneck(nn.Module):
    """1×1 (which strides), 3×3, 1×1 widening, beside a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, project: bool) -> None:
        super().__init__()
        outputs = width * EXPANSION
        self.conv1 = nn.Conv2d(inputs, width, 1, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if project:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + shortcut)


class VGGFace2ResNet(nn.Module):
    """`[N,3,224,224]` BGR less its mean → `[N,dim]`, not normalized.

    `dim` is the last stage's width (2048), or `reduced` where the file has Oxford's `feat_extract`
    behind the pooling (its 128-D and 256-D variants).
    """

    def __init__(
        self,
        blocks: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        reduced: int | None = None,
        reduced_bias: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for index, count in enumerate(blocks):
            stage = width << index
            layers = [Bottleneck(inputs, stage, 2 if index else 1, True)]
            inputs = stage * EXPANSION
            layers += [Bottleneck(inputs, stage, 1, False) for _ in range(count - 1)]
            self.add_module(f"layer{index + 1}", nn.Sequential(*layers))
        self.stages = len(blocks)
        self.feat_extract: nn.Module | None = None
        if reduced is not None:
            self.feat_extract = nn.Conv2d(inputs, reduced, 1, bias=reduced_bias)
        self.dim = reduced or inputs

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        for index in range(self.stages):
            x = self.get_submodule(f"layer{index + 1}")(x)
        x = F.adaptive_avg_pool2d(x, 1)
        if self.feat_extract is not None:
            x = self.feat_extract(x)
        return x.flatten(1)
