"""The networks of FaceShifter (Li, Bao, Yang, Chen and Wen 2020), small: AEI-Net (section 3.1),
which draws one face's attributes with another's identity, and HEAR-Net (section 3.2), which gives
back what lay in front of the face.

What each is trained for stands in `deid.training.rivals.face_shifter`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deid.nets.unet import UNet

ENCODED = (16, 32, 48, 64, 64)
"""Channels of the attributes encoder, from half the picture's side down to a thirty-second."""

DRAWN = (80, 80, 64, 48, 32, 16)
"""Channels of the generator, from a thirty-second of the side up."""

IDENTITY = 64
"""Numbers to which z_id is narrowed before the generator sees it."""


def _halving(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 4, 2, 1),
        nn.GroupNorm(outputs // 8, outputs),
        nn.LeakyReLU(0.1, inplace=True),
    )


def _doubling(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 4, 2, 1),
        nn.GroupNorm(outputs // 8, outputs),
        nn.LeakyReLU(0.1, inplace=True),
    )


class AttributesEncoder(nn.Module):
    """z_att: a U-Net's maps, `[N,3,H,W]` → one for each side from H/32 to H."""

    def __init__(self, channels: Sequence[int] = ENCODED) -> None:
        super().__init__()
        pairs = list(zip((3, *channels), channels, strict=False))
        self.down = nn.ModuleList([_halving(a, b) for a, b in pairs])
        before, self.up, self.channels = channels[-1], nn.ModuleList(), [channels[-1]]
        for width in reversed(channels[:-1]):
            self.up.append(_doubling(before, width))
            before = 2 * width  # with what the way down had at this side
            self.channels.append(before)
        self.channels.append(before)

    def forward(self, images: Tensor) -> list[Tensor]:
        x, passed = images, []
        for down in self.down:
            x = down(x)
            passed.append(x)
        maps = [passed.pop()]
        for up in self.up:
            maps.append(torch.cat([up(maps[-1]), passed.pop()], 1))
        last = F.interpolate(maps[-1], scale_factor=2.0, mode="bilinear", align_corners=False)
        return [*maps, last]


class AAD(nn.Module):
    """Adaptive attentional denormalization, equations (2)–(5) of the paper:

    h̄ = (h − μ) / σ,   A = γ_att ⊗ h̄ + β_att,   I = γ_id ⊗ h̄ + β_id,
    M = sigmoid(conv(h̄)),   out = (1 − M) ⊗ A + M ⊗ I
    """

    def __init__(self, channels: int, attributes: int, identity: int) -> None:
        super().__init__()
        self.attributes = nn.Conv2d(attributes, 2 * channels, 1)
        self.identity = nn.Linear(identity, 2 * channels)
        self.mask = nn.Conv2d(channels, 1, 3, 1, 1)
        for layer in (self.attributes, self.identity):
            nn.init.normal_(layer.weight, std=0.5 * layer.weight[0].numel() ** -0.5)
            start = (torch.arange(2 * channels) < channels).float()  # γ at 1, β at 0
            layer.bias = nn.Parameter(start)

    def forward(self, h: Tensor, z_att: Tensor, z_id: Tensor) -> Tensor:
        normal = F.instance_norm(h)
        gain, shift = self.attributes(z_att).chunk(2, 1)
        attributes = gain * normal + shift
        gain, shift = self.identity(z_id)[..., None, None].chunk(2, 1)
        identity = gain * normal + shift
        mask = torch.sigmoid(self.mask(normal))
        return torch.lerp(attributes, identity, mask)


class AADResBlock(nn.Module):
    """AAD, ReLU and a 3×3 convolution, twice, beside a shortcut, which has its own AAD and ReLU
    where the number of channels changes."""

    def __init__(self, inputs: int, outputs: int, attributes: int, identity: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([AAD(inputs, attributes, identity) for _ in range(2)])
        self.convs = nn.ModuleList(
            [nn.Conv2d(inputs, width, 3, 1, 1) for width in (inputs, outputs)]
        )
        self.changes = inputs != outputs
        if self.changes:
            self.norm = AAD(inputs, attributes, identity)
            self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, h: Tensor, z_att: Tensor, z_id: Tensor) -> Tensor:
        x = h
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = conv(F.relu(norm(x, z_att, z_id)))
        if self.changes:
            h = self.shortcut(F.relu(self.norm(h, z_att, z_id)))
        return x + h


class AEINet(nn.Module):
    """X_t `[N,3,H,W]` in [-1, 1] and z_id `[N,dim]` → Ŷ, the same shape and range."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.encoder = AttributesEncoder()
        self.narrow = nn.Linear(dim, IDENTITY)
        self.start = nn.Linear(IDENTITY, DRAWN[0] * 4)
        widths = zip(DRAWN, (*DRAWN[1:], DRAWN[-1]), self.encoder.channels, strict=True)
        self.blocks = nn.ModuleList([AADResBlock(a, b, att, IDENTITY) for a, b, att in widths])
        self.last = nn.Conv2d(DRAWN[-1], 3, 3, 1, 1)

    def forward(self, attributes: Sequence[Tensor], z_id: Tensor) -> Tensor:
        """From the encoder's maps."""
        z_id = F.leaky_relu(self.narrow(z_id * z_id.shape[1] ** 0.5), 0.2)
        side = attributes[0].shape[-1]
        x = self.start(z_id).unflatten(1, (-1, 2, 2))
        x = x if side == 2 else F.interpolate(x, size=(side, side))
        for index, (block, z_att) in enumerate(zip(self.blocks, attributes, strict=True)):
            if index:
                x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = block(x, z_att, z_id)
        return torch.tanh(self.last(F.leaky_relu(x, 0.1)))

    def draw(self, targets: Tensor, z_id: Tensor) -> Tensor:
        """Ŷ_{s,t} of pictures and another's identity."""
        drawn: Tensor = self(self.encoder(targets), z_id)
        return drawn


class Swapper(nn.Module):
    """Both: first AEI-Net, then HEAR-Net. Sides are multiples of 64."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.aei = AEINet(dim)
        self.hear = UNet(6, 3, (16, 24, 32, 48), blocks=1)

    def refine(self, drawn: Tensor, targets: Tensor, again: Tensor) -> Tensor:
        """Y_{s,t} of Ŷ_{s,t}, X_t and Ŷ_{t,t}: U(Ŷ_{s,t}, X_t − Ŷ_{t,t})."""
        change: Tensor = self.hear(torch.cat([drawn, targets - again], 1))
        return (drawn + change).clamp(-1.0, 1.0)
