"""face-api.js's small networks (justadudewhohacks/face-api.js): separable, densely added.

One trunk, trained twice: for 68 landmarks and for seven expressions.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from deid.nets.tensorflow import SameConv2d

WIDTHS = (32, 64, 128, 256)


class Separable(nn.Module):
    """Depthwise 3×3 without bias, then 1×1."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = SameConv2d(inputs, inputs, 3, stride, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pointwise(self.depthwise(x))
        return y


class DenseBlock(nn.Module):
    """Halves the picture; four convolutions, each of which reads the sum of those before it."""

    def __init__(self, inputs: int, outputs: int, first: bool) -> None:
        super().__init__()
        down = SameConv2d(inputs, outputs, 3, 2) if first else Separable(inputs, outputs, 2)
        self.layers = nn.ModuleList([down, *(Separable(outputs, outputs) for _ in range(3))])

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = F.relu(self.layers[0](x))
        for layer in self.layers[1:]:
            total = total + layer(F.relu(total))
        return F.relu(total)


class FaceApiNet(nn.Module):
    """`[N,3,112,112]` RGB less VGGFace's mean, over 255 → `[N,outputs]`."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        before = (3, *WIDTHS)
        self.blocks = nn.Sequential(
            *(
                DenseBlock(inputs, width, first=i == 0)
                for i, (inputs, width) in enumerate(zip(before, WIDTHS, strict=False))
            )
        )
        self.head = nn.Linear(WIDTHS[-1], outputs)

    def maps(self, x: Tensor) -> list[Tensor]:
        """What each of the four blocks gives; the last is `[N,256,7,7]`."""
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        features = F.avg_pool2d(self.maps(x)[-1], 7, 2).flatten(1)
        outputs: Tensor = self.head(features)
        return outputs


class FaceLandmark68(FaceApiNet):
    """The 68 points `[N,68,2]` in widths and heights of the input, x first, iBUG order."""

    def __init__(self) -> None:
        super().__init__(136)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).reshape(-1, 68, 2)


class FaceApiExpression(FaceApiNet):
    """Scores `[N,7]`: neutral, happy, sad, angry, fearful, disgusted, surprised; before softmax."""

    def __init__(self) -> None:
        super().__init__(7)
