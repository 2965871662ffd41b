"""Where w goes when the head that a generator draws turns."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deid.faces.alignment import INNER, Points
from deid.faces.head_turn import DEPTH, angle, head_turn, straight

NOISE = 0.003
"""Of a landmark, in sides of the picture: what of its place w does not tell."""

MOST = 0.25
"""A turn, in sides of the picture for each distance of the eyes in depth, beyond which landmarks
are not believed."""


class HeadTurns(nn.Module):
    """`directions [2,w_dim]`: how w differs where what lies deeper by a distance of the eyes' outer
    corners lies further right, and down, by a side of the picture. `ahead [68,2]`: the landmarks of
    one that looks ahead, in sides.

    A face's landmarks follow from w by a straight map nearly: of its variance along the first
    component, which is turning left and right, 0.96 in *photo*. So one step turns a head.
    """

    directions: Tensor
    ahead: Tensor

    def __init__(self, directions: Tensor, ahead: Tensor) -> None:
        super().__init__()
        self.register_buffer("directions", directions)
        self.register_buffer("ahead", ahead)

    @classmethod
    def fitted(cls, w: Tensor, landmarks: Points) -> "HeadTurns":
        """From w `[N,w_dim]` of many faces, and their `landmarks [N,68,2]` in sides: how much w is
        to be expected to change (the ridge regression of w on landmarks) where they move as depth
        says and in nothing else."""
        seen = landmarks.reshape(len(landmarks), -1)
        seen = seen - seen.mean(axis=0)
        latents = w.double().cpu().numpy()
        normal = seen.T @ seen + len(seen) * NOISE**2 * np.eye(seen.shape[1])
        expected = np.linalg.solve(normal, seen.T @ (latents - latents.mean(axis=0)))
        deep = DEPTH - DEPTH[INNER].mean()  # eyes and mouth stay where an aligned face has them
        moves = np.stack([np.outer(deep, axis).ravel() for axis in np.eye(2)])
        ahead = straight(landmarks.mean(axis=0))
        return cls(torch.from_numpy(moves @ expected).float(), torch.from_numpy(ahead).float())

    def turned(self, w: Tensor, landmarks: Points, wanted: Points) -> Tensor:
        """w `[N,w_dim]` of faces that were drawn with `landmarks [N,68,2]`, so that their heads
        look where those do that are `wanted`, both in sides of the picture."""
        turns = [head_turn(*pair) for pair in zip(landmarks, wanted, strict=True)]
        return w + torch.from_numpy(np.stack(turns)).to(w).clamp(-MOST, MOST) @ self.directions

    def angles(self, landmarks: Points) -> NDArray[np.float64]:
        """By how many degrees heads with `landmarks [N,68,2]`, in sides, do not look ahead."""
        ahead = self.ahead.double().cpu().numpy()
        return np.array([angle(ahead, one) for one in landmarks])
