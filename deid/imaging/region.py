"""Where a face is, from its landmarks alone: from over the brows to the chin."""

import numpy as np
import torch
from torch import Tensor

from deid.faces.alignment import Points
from deid.imaging.skin import hull_mask

RAISED = 0.4
"""How far above the brows, in heights from the nose's tip to the brows."""


def face_region(landmarks: Points, size: int) -> Tensor:
    """1 within the convex hull of 68 landmarks `[68,2]`, in pixels, and of the brows raised; 0
    beyond it and on the picture's rim: `[size,size]`."""
    raised = landmarks[17:27].copy()
    raised[:, 1] -= RAISED * (landmarks[30, 1] - raised[:, 1].mean())
    inside = hull_mask(np.concatenate([landmarks, raised]).astype(np.float64), size)
    inside[[0, -1]] = inside[:, [0, -1]] = 0.0
    return torch.from_numpy(inside)


def face_regions(landmarks: Tensor, size: int) -> Tensor:
    """Of many, `[N,68,2]` → `[N,1,size,size]`."""
    regions = [face_region(each, size) for each in landmarks.detach().cpu().numpy()]
    return torch.stack(regions)[:, None].to(landmarks.device)
