"""The numbers that make one picture of the mini world, and how they are drawn.

A picture is one point of `[P]`, distributed as N(0, I), in five groups: who it is (`identity`),
what the face does (`expression`), where it looks (`pose`), the `light`, and everything behind and
around it (`background`: the backdrop, the clothes, and the glasses, which come and go).
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deid.seeds import numpy_generator

_GROUP_NAMES = {
    "identity": """
        sex age skin_tone skin_hue face_width jaw_width chin_length chin_shape cheeks forehead
        eye_size eye_spacing eye_tilt eye_roundness eye_depth eye_color
        nose_length nose_width nose_bridge nose_tip
        mouth_width upper_lip lower_lip lip_color mouth_height
        brow_thickness brow_arch brow_height brow_tilt
        hair_lightness hair_red hair_volume hair_length baldness fringe parting beard blush
    """,
    "expression": "smile mouth_open brow_raise frown eye_open gaze_x gaze_y pucker",
    "pose": "yaw pitch roll",
    "light": "azimuth elevation ambient warmth",
    "background": """
        back_lightness back_red back_blue back_direction back_gradient
        cloth_lightness cloth_red cloth_blue
        glasses glasses_size glasses_color
    """,
}
_NAMES = {group: names.split() for group, names in _GROUP_NAMES.items()}


def _slices() -> dict[str, slice]:
    ends = np.cumsum([len(names) for names in _NAMES.values()])
    starts = [0, *ends[:-1]]
    return {name: slice(int(a), int(b)) for name, a, b in zip(_NAMES, starts, ends, strict=True)}


GROUPS: dict[str, slice] = _slices()
NAMES: tuple[str, ...] = tuple(name for names in _NAMES.values() for name in names)
PARAMETERS: int = len(NAMES)


def random_parameters(indices: Sequence[int], seed: int) -> NDArray[np.float32]:
    """`[N,P]`: everything fresh, N(0, 1); row `i` depends on `indices[i]` and `seed` only."""
    rows = [
        numpy_generator("mini/picture", int(i), seed).standard_normal(PARAMETERS) for i in indices
    ]
    return np.asarray(rows, np.float32).reshape(-1, PARAMETERS)


def sample_parameters(identity_index: int, view_index: int, seed: int) -> NDArray[np.float32]:
    """`[P]`: person `identity_index` in view `view_index`; every view has its own other groups."""
    view = numpy_generator(f"mini/view/{identity_index}", view_index, seed)
    row = view.standard_normal(PARAMETERS)
    group = GROUPS["identity"]
    person = numpy_generator("mini/identity", identity_index, seed)
    row[group] = person.standard_normal(group.stop - group.start)
    return row.astype(np.float32)


def identity_views(identities: Sequence[int], views: int, seed: int) -> NDArray[np.float32]:
    """`[len(identities) * views, P]`, the views of one person in consecutive rows."""
    rows = [sample_parameters(int(i), view, seed) for i in identities for view in range(views)]
    return np.asarray(rows, np.float32).reshape(-1, PARAMETERS)


class Columns:
    """The parameters of a batch by name, each as `[N,1]`, through quantile functions."""

    def __init__(self, parameters: Tensor) -> None:
        """`parameters [N,P]`; raises ValueError when P is another number."""
        if parameters.ndim != 2 or parameters.shape[1] != PARAMETERS:
            raise ValueError(f"expected parameters [N,{PARAMETERS}], got {list(parameters.shape)}")
        self._of: dict[str, Tensor] = dict(
            zip(NAMES, parameters.float().chunk(PARAMETERS, dim=1), strict=True)
        )

    def normal(self, name: str) -> Tensor:
        """The draw itself."""
        return self._of[name]

    def uniform(self, name: str, low: float, high: float) -> Tensor:
        """Spread evenly over (low, high): the normal draw through its own distribution function."""
        share: Tensor = torch.special.ndtr(self._of[name])
        return low + (high - low) * share

    def bell(self, name: str, limit: float, gain: float = 0.6) -> Tensor:
        """In (-limit, limit), mostly near 0."""
        return limit * torch.tanh(gain * self._of[name])

    def above(self, name: str, threshold: float, sharpness: float) -> Tensor:
        """A soft switch in (0, 1): on where the draw exceeds `threshold`."""
        switch: Tensor = torch.sigmoid(sharpness * (self._of[name] - threshold))
        return switch
