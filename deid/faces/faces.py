"""Faces found in a picture, and what finds them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deid.pixels import Pixels


@dataclass(frozen=True)
class Faces:
    """Faces found in one picture; K may be 0. Pixels of that picture, x first."""

    boxes: NDArray[np.float32]  # [K,4] x0 y0 x1 y1
    scores: NDArray[np.float32]  # [K] in [0, 1], highest first
    points: NDArray[np.float32]  # [K,5,2] eyes, nose tip, mouth corners; left of the picture first

    @classmethod
    def none(cls) -> "Faces":
        """No face."""
        zeros = (
            np.zeros((0, 4), np.float32),
            np.zeros(0, np.float32),
            np.zeros((0, 5, 2), np.float32),
        )
        return cls(*zeros)

    def __len__(self) -> int:
        return len(self.boxes)


class FaceDetector(Protocol):
    """Finds faces in pictures of any size."""

    name: str

    def detect(self, pictures: Sequence[Pixels]) -> list[Faces]:
        """One `Faces` for each `uint8 [H,W,3]` RGB picture, in order."""
        ...
