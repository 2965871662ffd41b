"""Everything that works on a picture."""

from collections.abc import Mapping
from dataclasses import dataclass

from deid.anonymize import Anonymizer
from deid.faces.faces import FaceDetector
from deid.gate.choose import Chooser
from deid.gate.domain import RenderedOnly
from deid.gate.judges import Verifier
from deid.gate.place import Placing
from deid.pixels import Pixels
from deid.worlds.world import LandmarkNetwork, RegionName


@dataclass(frozen=True)
class Components:
    """The networks of a run. `anonymizers` has one for each fallback level but the mask."""

    detector: FaceDetector
    landmarks: LandmarkNetwork
    landmark_side: int
    refine: bool  # whether the landmarks place a face better than the detector's points
    anonymizers: Mapping[str, Anonymizer]
    verifier: Verifier
    sweeper: FaceDetector | None = None  # looks at what was anonymized; None: the detector
    chooser: Chooser | None = None  # which faces stay as they are; None: none
    rendered_only: RenderedOnly | None = None  # None: all pictures are in the networks' domain
    region: RegionName = "head"  # in which new faces are drawn
    relit: bool = True  # new faces take the light and color of what they replace

    @property
    def placing(self) -> Placing:
        """How faces are placed."""
        return Placing(self.landmarks, self.landmark_side, self.refine, self.region)

    def check_domain(self, picture: Pixels) -> None:
        """`DeidError` for a picture in which these networks see nothing reliable."""
        if self.rendered_only is not None:
            self.rendered_only.check(picture)
