"""What a network must do to serve in a detector: one pass over a picture of moderate size."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from deid.faces.faces import Faces
from deid.pixels import Pixels


class SinglePassDetector(Protocol):
    """One pass over a picture at exactly its scale, the faces upright or nearly so."""

    @property
    def name(self) -> str:
        """What it is and from which file, for the records: `scrfd:det_500m`."""
        ...

    @property
    def threshold(self) -> float:
        """The lowest score it answers; explicit, because the libraries' own are too high."""
        ...

    @property
    def confidence_threshold(self) -> float:
        """The score from which a face is accepted: in the close-up, or where one pass is all."""
        ...

    @property
    def scale_invariant(self) -> bool:
        """Whether one pass finds faces of any size, because it has a pyramid of its own."""
        ...

    @property
    def rotation_invariant(self) -> bool:
        """Whether one pass finds faces at any rotation, because it was trained on them."""
        ...

    def find(self, picture: Pixels) -> Faces:
        """The faces of `uint8 [H,W,3]` RGB; boxes may leave the picture; in any order."""
        ...


@runtime_checkable
class HasSinglePass(Protocol):
    """A world's detector whose network can also serve in a multi-scale detector."""

    def single_pass(self) -> SinglePassDetector:
        """The network, with thresholds of its own for single passes."""
        ...


class OnePass:
    """One pass over each picture as it is. Satisfies `FaceDetector` and `HasSinglePass`."""

    def __init__(self, network: SinglePassDetector) -> None:
        self.name, self._network = network.name, network

    def detect(self, pictures: Sequence[Pixels]) -> list[Faces]:
        """See `FaceDetector`."""
        return [self._network.find(picture) for picture in pictures]

    def single_pass(self) -> SinglePassDetector:
        """See `HasSinglePass`."""
        return self._network
