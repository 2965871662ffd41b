"""A detector that does not miss: one or several networks, many passes over a picture, one result.

Recall comes first: a missed face is a leak, a false one costs some blurred pixels. So the networks
answer whatever they suspect, and each suspect is then shown to them once more, alone, upright and
close up, as the stages of a cascade do: a face is one there too, what resembled one from afar is
not.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deid.faces.detection.boxes import Boxes, iou
from deid.faces.detection.merge import Confirm, Pass, merge_detections
from deid.faces.detection.single_pass import SinglePassDetector
from deid.faces.detection.views import close_up_view, multi_scale_views, single_view
from deid.faces.faces import Faces
from deid.pixels import Pixels

SEEN_AGAIN = 0.5  # IoU from which a box of the close-up is the suspect's


class Detector:
    """Satisfies `FaceDetector`: everything that any of several networks finds.

    `size` None is the multi-scale mode (`multi_scale_views`); a number is one pass over the picture
    with that longer side.
    """

    def __init__(self, networks: Sequence[SinglePassDetector], size: int | None = None) -> None:
        self.networks, self.size = tuple(networks), size
        names = " + ".join(
            f"{network.name}@{network.threshold:g}/{network.confidence_threshold:g}"
            for network in self.networks
        )
        self.name = f"{names}, {'multi-scale' if size is None else f'{size} px'}"

    def detect(self, pictures: Sequence[Pixels]) -> list[Faces]:
        """See `FaceDetector`."""
        return [self._detect(picture) for picture in pictures]

    def _detect(self, picture: Pixels) -> Faces:
        passes = [p for network in self.networks for p in run_passes(network, picture, self.size)]
        confirm = None if self.size is not None else close_up(self.networks, picture)
        return merge_detections(passes, picture.shape[:2], confirm)


def run_passes(network: SinglePassDetector, picture: Pixels, size: int | None) -> list[Pass]:
    """All passes of one network over `uint8 [H,W,3]`; `size` as in `Detector`."""
    if size is not None:
        views = iter([single_view(picture, size)])
    else:
        views = multi_scale_views(picture, network.scale_invariant, network.rotation_invariant)
    return [
        Pass(
            view.to_faces(network.find(view.pixels)),
            network.confidence_threshold,
            tight=not view.oblique,
        )
        for view in views
    ]


def close_up(networks: Sequence[SinglePassDetector], picture: Pixels) -> Confirm:
    """Whether any of the networks accepts a suspect that it is shown alone (`close_up_view`)."""

    def confirm(box: Boxes, points: NDArray[np.float32], hidden: Boxes) -> bool:
        view = close_up_view(picture, box, points, hidden)
        return view is not None and any(
            (iou(box, found.boxes)[found.scores >= network.confidence_threshold] > SEEN_AGAIN).any()
            for network in networks
            for found in (view.to_faces(network.find(view.pixels)),)
        )

    return confirm
