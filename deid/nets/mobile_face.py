"""MobileFace (becauseofAI/MobileFace), a tiny recognizer: 256-D, 112 px.

Its depthwise filters follow one another without the usual 1×1 between them.
"""

from torch import Tensor, nn

WIDTHS = (32, 32, 64, 128)
"""Of the four units; the stem has 32."""


class Unit(nn.Module):
    """1×1, then a strided depthwise 3×3; two more depthwise 3×3 beside the identity."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()

        def depthwise(stride: int) -> nn.Conv2d:
            return nn.Conv2d(outputs, outputs, 3, stride, 1, groups=outputs, bias=False)

        self.widen = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.down, self.first, self.second = depthwise(2), depthwise(1), depthwise(1)
        self.act_down, self.act_first, self.act_second = (nn.PReLU(outputs) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.act_down(self.down(self.widen(x)))
        y: Tensor = self.act_first(self.first(x))
        y = self.act_second(self.second(y))
        return x + y


class MobileFace(nn.Module):
    """`[N,3,112,112]` RGB, (x - 127.5) / 128 → `[N,256]`, not normalized."""

    dim = 256

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTHS[0], 3, 2, 1, bias=False)
        self.act = nn.PReLU(WIDTHS[0])
        before = (WIDTHS[0], *WIDTHS)
        self.units = nn.Sequential(*map(Unit, before, WIDTHS))
        self.project = nn.Linear(WIDTHS[-1] * 4 * 4, self.dim)

    def forward(self, x: Tensor) -> Tensor:
        code: Tensor = self.project(self.units(self.act(self.stem(x))).flatten(1))
        return code
