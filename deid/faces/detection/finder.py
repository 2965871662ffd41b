"""What a network must do to serve in a detector: look once at a picture of moderate size."""

from typing import Protocol, runtime_checkable

import numpy as np

from deid.faces.faces import Faces
from deid.pixels import Pixels


class Finder(Protocol):
    """One look at a picture at exactly its scale, the faces upright or nearly so."""

    @property
    def name(self) -> str:
        """What it is and from which file, for the records: `scrfd:det_500m`."""
        ...

    @property
    def threshold(self) -> float:
        """The lowest score it answers; explicit, because the libraries' own are too high."""
        ...

    @property
    def sure(self) -> float:
        """The score from which a look is believed: the second, or where only one is asked for."""
        ...

    @property
    def any_size(self) -> bool:
        """Whether one look finds faces of any size, because it has a pyramid of its own."""
        ...

    @property
    def any_turn(self) -> bool:
        """Whether one look finds faces at any turn, because it was taught them so."""
        ...

    def find(self, picture: Pixels) -> Faces:
        """The faces of `uint8 [H,W,3]` RGB; boxes may leave the picture; in any order."""
        ...


@runtime_checkable
class Careful(Protocol):
    """A detector whose network can be asked for single looks."""

    def finder(self) -> Finder:
        """The network, with a threshold of its own for single looks."""
        ...


def no_faces() -> Faces:
    """An answer without a face."""
    return Faces(
        np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2), np.float32)
    )
