"""Groups of people, and whether an output keeps age, sex and skin: by a table, or by networks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from deid.attack.crops import Crops
from deid.pixels import Pixels, to_tensor
from deid.worlds.world import World

Labels = Mapping[str, Sequence[str]]
"""For each kind of group, every picture's group, `[N]`."""

LIGHT, DARK = 41.0, 10.0
"""Individual typology angles between which skin is called medium (Chardon et al. 1991: light from
41°, brown from 10° down)."""
YOUNG, OLD = 30.0, 50.0
BATCH = 25


@dataclass(frozen=True)
class AgeAndSex:
    """What the world's network of looks says: years `[N]`, and how likely a man is shown `[N]`."""

    years: NDArray[np.float64]
    male: NDArray[np.float64]


@torch.inference_mode()
def age_and_sex(world: World, faces: Pixels) -> AgeAndSex | None:
    """Of `uint8 [N,S,S,3]`; None in a world without a network for it."""
    looks = world.looks
    if looks is None:
        return None
    parts = [
        looks.age_and_sex(to_tensor(faces[i : i + BATCH]).to(world.device)).cpu()
        for i in range(0, len(faces), BATCH)
    ]
    years, male = torch.cat(parts).double().T.numpy()
    return AgeAndSex(years, male)


def skin_angles(faces: Pixels) -> NDArray[np.float64]:
    """The individual typology angle of nose and cheeks of aligned faces, in degrees, `[N]`: light
    skin has a large one. It counts light as skin does, so a dim picture makes skin darker."""
    side = faces.shape[1]
    rows, columns = (
        slice(round(a * side), round(b * side)) for a, b in ((0.54, 0.64), (0.34, 0.66))
    )
    means = faces[:, rows, columns].reshape(len(faces), -1, 3).mean(axis=1) / 255
    lab = cv2.cvtColor(means[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0].astype(np.float64)
    return np.asarray(np.degrees(np.arctan2(lab[:, 0] - 50.0, lab[:, 2])))


def groups(crops: Crops, before: AgeAndSex | None) -> Labels:
    """By every column of the table; by skin, age and sex of the originals where it has no such
    column."""
    angles = skin_angles(crops.originals)
    labels: dict[str, Sequence[str]] = {
        "skin": ["light" if a > LIGHT else "medium" if a > DARK else "dark" for a in angles]
    }
    if before is not None:
        labels["age"] = [
            f"under {YOUNG:g}"
            if y < YOUNG
            else f"{YOUNG:g} to {OLD:g}"
            if y < OLD
            else f"{OLD:g} on"
            for y in before.years
        ]
        labels["sex"] = ["male" if m > 0.5 else "female" for m in before.male]
    names = {name for pair in crops.pairs for name in pair.groups}
    table = {name: [pair.groups.get(name, "–") for pair in crops.pairs] for name in sorted(names)}
    return labels | table
