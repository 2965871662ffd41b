"""The networks of FSGAN (Nirkin, Keller and Hassner 2019, section 3), small: one that gives a face
the expression of landmarks, one that finds the face, one that completes it.

What each is trained for stands in `deid.training.rivals.fsgan`, how they are used in
`deid.anonymize.rivals.fsgan`.
"""

import torch
from torch import Tensor, nn

from deid.nets.unet import UNet

PARTS = (
    *(slice(0, 17), slice(17, 22), slice(22, 27), slice(27, 31), slice(31, 36)),
    *(slice(36, 42), slice(42, 48), slice(48, 60), slice(60, 68)),
)
"""Landmarks of jaw, brows, nose (bridge and base), eyes, outer and inner lips."""

SPREAD = 1.2 / 64
"""Standard deviation of a landmark's spot, in sides."""


def heatmaps(landmarks: Tensor, size: int) -> Tensor:
    """H(p): landmarks `[N,68,2]` in pixels of a picture of `size` → `[N,9,size,size]` in [0, 1], a
    map for each of `PARTS` on which each of its landmarks is a Gaussian spot."""
    axis = torch.arange(size, device=landmarks.device) + 0.5
    spread = SPREAD * size
    x, y = (torch.exp(-0.5 * ((axis - landmarks[..., i, None]) / spread).square()) for i in (0, 1))
    spots = y[..., :, None] * x[..., None, :]
    return torch.stack([spots[:, part].amax(1) for part in PARTS], 1)


class Generators(nn.Module):
    """G_r, G_s and G_c. Pictures are `[N,3,H,W]` in [-1, 1], masks `[N,1,H,W]`; sides are multiples
    of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.reenacting = UNet(3 + len(PARTS), 4, (16, 32, 64, 96), blocks=3)
        self.segmenting = UNet(3, 1, (8, 16, 32, 32), blocks=1)
        self.inpainting = UNet(5, 3, (16, 32, 48, 64), blocks=1)

    def reenact(self, sources: Tensor, landmarks: Tensor) -> tuple[Tensor, Tensor]:
        """G_r(I_s; H(p_t)): the sources' faces with the expression of landmarks `[N,68,2]`, and
        S_r, where the face is, as logits."""
        maps = heatmaps(landmarks, sources.shape[-1])
        output = self.reenacting(torch.cat([sources, maps], 1))
        return torch.tanh(output[:, :3]), output[:, 3:]

    def segment(self, images: Tensor) -> Tensor:
        """G_s: where the face is, as logits."""
        logits: Tensor = self.segmenting(images)
        return logits

    def complete(self, faces: Tensor, known: Tensor, wanted: Tensor) -> Tensor:
        """G_c: faces of which only `known` is shown → all of `wanted`; what was known stays."""
        shown = faces * known
        painted = torch.tanh(self.inpainting(torch.cat([shown, known, wanted], 1)))
        return shown + painted * (1.0 - known)
