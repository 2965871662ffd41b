"""HSE_FaceRec's MobileNet (Savchenko 2019, HSE-asavchenko/HSE_FaceRec_tf), trained on VGGFace2.

MobileNet v1 (Howard et al. 2017) with heads for age and gender on the same features. Batch norms
are folded into the convolutions' weights and biases.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deid.nets.tensorflow import SameConv2d

DIM, AGES = 1024, 100
PLAN = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (DIM, 2),
    (DIM, 1),
)
"""Outputs and stride of each depthwise-separable block, after a first one of 32 with stride 2."""


class Separable(nn.Module):
    """Depthwise 3×3, then 1×1, each with ReLU6."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.depthwise = SameConv2d(inputs, inputs, 3, stride, groups=inputs)
        self.pointwise = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(self.pointwise(F.relu6(self.depthwise(x))))


class HseFaceNet(nn.Module):
    """`[N,3,224,224]` BGR less VGGFace2's mean → features `[N,1024]`, not normalized."""

    dim = DIM

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv2d(3, 32, 3, 2)
        self.blocks = nn.Sequential()
        before = 32
        for outputs, stride in PLAN:
            self.blocks.append(Separable(before, outputs, stride))
            before = outputs
        self.hidden = nn.Linear(DIM, 256)
        self.age = nn.Linear(256, AGES)
        self.gender = nn.Linear(256, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)  # 1.5 times as fast on a CPU
        y: Tensor = self.blocks(F.relu6(self.stem(x)))
        return y.mean((2, 3))

    def years(self, features: Tensor) -> Tensor:
        """The expected age from features, `[N]`."""
        share: Tensor = self.age(F.relu(self.hidden(features))).softmax(1)
        return share @ torch.arange(AGES, device=share.device, dtype=share.dtype)

    def male(self, features: Tensor) -> Tensor:
        """How likely a man is shown, `[N]` in 0…1."""
        chance: Tensor = self.gender(F.relu(self.hidden(features))).sigmoid()
        return chance[:, 0]
