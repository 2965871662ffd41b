"""Face recognizer: a backbone, one linear layer over its last map, a unit vector."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from deid.nets.backbones import Backbone, Family


class Recognizer(nn.Module):
    """`[N,3,H,W]` → unit vectors `[N,dim]`; satisfies `deid.worlds.world.FaceEmbedder`.

    The last map is flattened, not averaged: on aligned faces a place means a feature (ArcFace).
    """

    def __init__(
        self, family: Family, channels: Sequence[int], blocks: Sequence[int], dim: int = 128
    ) -> None:
        super().__init__()
        self.backbone = Backbone(family, channels, blocks)
        places = self.backbone.last_size**2
        self.embed = nn.Sequential(
            nn.Flatten(), nn.Linear(channels[-1] * places, dim, bias=False), nn.BatchNorm1d(dim)
        )
        self.dim = dim

    def raw(self, images: Tensor) -> Tensor:
        """The embedding before it is normalized, `[N,dim]`."""
        embedding: Tensor = self.embed(self.backbone(images)[-1].contiguous())
        return embedding

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.raw(images).float(), dim=1)
