"""MTCNN's three networks (Zhang et al. 2016), in the layout of facenet-pytorch.

Inputs are `float32 [N,3,H,W]`, RGB, (x - 127.5) / 128 of 8-bit values. Box corrections are shares
of the box's sides, added to left, top, right, bottom.
"""

from torch import Tensor, nn

NAMES = ("pnet", "rnet", "onet")


class ProposalNet(nn.Module):
    """P-Net, fully convolutional: one answer for each 12-pixel window, at a stride of 2."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 10, 3), nn.PReLU(10)
        self.pool1 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.conv2, self.prelu2 = nn.Conv2d(10, 16, 3), nn.PReLU(16)
        self.conv3, self.prelu3 = nn.Conv2d(16, 32, 3), nn.PReLU(32)
        self.conv4_1 = nn.Conv2d(32, 2, 1)
        self.conv4_2 = nn.Conv2d(32, 4, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """`[N,3,H,W]`, H and W ≥ 12 → corrections `[N,4,h,w]`, probabilities `[N,2,h,w]`."""
        x = self.pool1(self.prelu1(self.conv1(images)))
        x = self.prelu3(self.conv3(self.prelu2(self.conv2(x))))
        return self.conv4_2(x), self.conv4_1(x).softmax(1)


class RefineNet(nn.Module):
    """R-Net: is this 24-pixel window a face?"""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2, self.prelu2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv3, self.prelu3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.dense4, self.prelu4 = nn.Linear(576, 128), nn.PReLU(128)
        self.dense5_1 = nn.Linear(128, 2)
        self.dense5_2 = nn.Linear(128, 4)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """`[N,3,24,24]` → corrections `[N,4]`, probabilities `[N,2]`."""
        x = self.pool1(self.prelu1(self.conv1(images)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.prelu4(self.dense4(_flat(self.prelu3(self.conv3(x)))))
        return self.dense5_2(x), self.dense5_1(x).softmax(1)


class OutputNet(nn.Module):
    """O-Net: is this 48-pixel window a face, and where are its five points?"""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 32, 3), nn.PReLU(32)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2, self.prelu2 = nn.Conv2d(32, 64, 3), nn.PReLU(64)
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv3, self.prelu3 = nn.Conv2d(64, 64, 3), nn.PReLU(64)
        self.pool3 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.conv4, self.prelu4 = nn.Conv2d(64, 128, 2), nn.PReLU(128)
        self.dense5, self.prelu5 = nn.Linear(1152, 256), nn.PReLU(256)
        self.dense6_1 = nn.Linear(256, 2)
        self.dense6_2 = nn.Linear(256, 4)
        self.dense6_3 = nn.Linear(256, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`[N,3,48,48]` → corrections `[N,4]`, points `[N,10]`, probabilities `[N,2]`.

        Points are shares of the window: five x, then five y.
        """
        x = self.pool1(self.prelu1(self.conv1(images)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.pool3(self.prelu3(self.conv3(x)))
        x = self.prelu5(self.dense5(_flat(self.prelu4(self.conv4(x)))))
        return self.dense6_2(x), self.dense6_3(x), self.dense6_1(x).softmax(1)


def mtcnn_net(part: str) -> nn.Module:
    """The network that `part`, one of `NAMES`, stands for; without weights."""
    builders = dict(zip(NAMES, (ProposalNet, RefineNet, OutputNet), strict=True))
    network: nn.Module = builders[part]()
    return network


def _flat(x: Tensor) -> Tensor:
    """Columns before rows before channels: the order of the first, Caffe, implementation."""
    return x.permute(0, 3, 2, 1).flatten(1)
