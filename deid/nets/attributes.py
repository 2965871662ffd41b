"""Networks that describe a picture by numbers: for expression, perceptual loss and the metrics.

They are pretrained to regress what the picture was made from, and used for their features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deid.nets.backbones import Backbone, Family


class Trunk(nn.Module):
    """`[N,3,H,W]` → features `[N,dim]`: a backbone, a linear layer over its last map."""

    def __init__(
        self, family: Family, channels: Sequence[int], blocks: Sequence[int], dim: int = 128
    ) -> None:
        super().__init__()
        self.backbone = Backbone(family, channels, blocks)
        places = self.backbone.last_size**2
        self.project = nn.Sequential(
            nn.Flatten(), nn.Linear(channels[-1] * places, dim, bias=False), nn.BatchNorm1d(dim)
        )
        self.dim = dim

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.project(self.backbone(images)[-1].contiguous())
        return features


class AttributeRegressor(nn.Module):
    """A trunk with a small head: `[N,3,H,W]` → `[N,outputs]`. Only for pretraining the trunk."""

    def __init__(self, trunk: Trunk, outputs: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(trunk.dim, outputs))

    def forward(self, images: Tensor) -> Tensor:
        numbers: Tensor = self.head(self.trunk(images))
        return numbers


class PerceptualNet(nn.Module):
    """Perceptual comparisons in a trunk's features; satisfies `world.PerceptualNetwork`.

    `distance` has LPIPS's form (Zhang et al. 2018, equation 1) with uniform weights: at every place
    the channels are normalized to unit length; squared differences are summed over channels,
    averaged over places, then over layers.
    """

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """`[N]` ≥ 0, for two batches of pictures `[N,3,H,W]`; 0 for equal pictures."""
        layers = zip(self.trunk.backbone(a), self.trunk.backbone(b), strict=True)
        return torch.stack(
            [_unit(x).sub(_unit(y)).square().sum(1).mean((1, 2)) for x, y in layers]
        ).mean(0)


class MetricNet(PerceptualNet):
    """Every figure that compares faces: as `PerceptualNet`, and what expression a face has."""

    def __init__(
        self, regressor: AttributeRegressor, expression: slice, fid_label: str, lpips_label: str
    ) -> None:
        """`expression`: which of the regressed numbers describe it."""
        super().__init__(regressor.trunk)
        self.head, self.columns = regressor.head, expression
        self.fid_label, self.lpips_label = fid_label, lpips_label

    def pooled(self, images: Tensor) -> Tensor:
        """The last map averaged over places, `[N,3,H,W]` → `[N,D]`."""
        last: Tensor = self.trunk.backbone(images)[-1]
        return last.float().mean((2, 3))

    def expression(self, images: Tensor) -> Tensor:
        """`[N,3,H,W]` → the expression's numbers `[N,K]`, each of variance 1 over faces."""
        numbers: Tensor = self.head(self.trunk(images))
        return numbers[:, self.columns]


def _unit(features: Tensor) -> Tensor:
    return features * torch.rsqrt(features.square().sum(1, keepdim=True) + 1e-10)
