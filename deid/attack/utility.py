"""What is left of a picture's use: faces found, landmarks, pose, expression; and how it looks."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deid.attack.crops import Crops
from deid.attack.gaze import iris_places
from deid.attack.groups import AgeAndSex, age_and_sex, skin_angles
from deid.attack.natural import unnaturalness
from deid.evaluate.columns import STANDARD, Network, networks
from deid.evaluate.metrics import frechet_distance
from deid.faces.alignment import INNER
from deid.pixels import Pixels, to_tensor
from deid.worlds.world import MetricNetwork, World

Rows = NDArray[np.float64]
BATCH = 16
KID_LEAST = 10  # pictures

# A usual head's nose tip, chin, outer corners of the eyes and of the mouth, in mm: x to the right
# of the picture, y down, z away from the camera; and which of the 68 landmarks they are.
HEAD = np.array(
    [[0, 0, 0], [0, 63, 13], [-43, -33, 26], [43, -33, 26], [-29, 29, 24], [29, 29, 24]], np.float64
)
AT = (30, 8, 36, 45, 48, 54)
OPPOSITE = ((62, 66), (37, 41), (44, 46))
"""Of the 68 landmarks, lips and lids."""


PIXELS = Network("", "")
"""No network at all."""


@dataclass(frozen=True)
class Reading:
    """A figure of utility or quality, and the network that measured it; `better` is ↑ or ↓."""

    heading: str
    better: str
    value: float
    network: Network = PIXELS


@dataclass(frozen=True)
class Described:
    """What networks that do not ask who somebody is say of N faces."""

    landmarks: Rows  # [N,68,2], pixels
    openings: Rows  # [N,K], of mouth and eyes
    expression: Rows  # [N,K]
    person: AgeAndSex | None
    skin: Rows  # [N], typology angle in degrees
    irises: Rows  # [N], sideways of the middle, in widths of an eye; NaN where eyes are closed

    @property
    def names_expressions(self) -> bool:
        """Whether `expression` holds how likely each class is."""
        return bool(np.allclose(self.expression.sum(axis=1), 1.0, atol=1e-3))


def describe(world: World, faces: Pixels) -> Described:
    """Of `uint8 [N,S,S,3]`."""
    landmarks = _each(world, world.landmarks, faces)
    return Described(
        landmarks=landmarks,
        openings=_each(world, lambda images: _openings(world, images), faces),
        expression=_each(world, world.metric_features.expression, faces),
        person=age_and_sex(world, faces),
        skin=skin_angles(faces),
        irises=iris_places(faces, landmarks),
    )


def utility(world: World, crops: Crops, before: Described, after: Described) -> dict[str, Reading]:
    """How well outputs serve those who do not ask who somebody is."""
    features, _, __, detector = networks(world)
    trained, contours = "trained with", world.contours is not None
    landmarks = Network("En_lnd", trained)
    lips = Network("contours" if contours else "En_lnd", trained)
    eyes = np.linalg.norm(before.landmarks[:, 36] - before.landmarks[:, 45], axis=1)
    apart = np.linalg.norm(before.landmarks - after.landmarks, axis=2)[:, INNER].mean(axis=1) / eyes
    turned = _turned(before.landmarks, after.landmarks, crops.outputs.shape[1])
    figures = _detection(crops, world.name, detector)
    figures |= {
        "landmarks": Reading(
            "landmarks off, in distances of the eyes", "↓", _median(apart), landmarks
        ),
        "pose": Reading("pose off, degrees", "↓", _median(turned), landmarks),
        "openings": Reading(
            "mouth and eyes open, correlation",
            "↑",
            _agreement(before.openings, after.openings),
            lips,
        ),
        "expression": Reading(
            "expression, correlation",
            "↑",
            _agreement(before.expression, after.expression),
            features,
        ),
        "skin": Reading("skin tone off, degrees", "↓", _median(np.abs(before.skin - after.skin))),
    }
    if before.names_expressions:
        same = before.expression.argmax(axis=1) == after.expression.argmax(axis=1)
        figures["expression_class"] = Reading("same expression", "↑", float(same.mean()), features)
    return figures | _gaze(before, after) | _person(before.person, after.person)


def _detection(crops: Crops, own: str, detector: Network) -> dict[str, Reading]:
    """Of all originals, also those without an output; `own` names the world's `detector`."""
    return {
        f"detected_{name}": Reading(
            f"face found, {name}",
            "↑",
            float(found.mean()),
            detector if name == own else Network(name, "no part in training or selection"),
        )
        for name, found in crops.found.items()
    }


def _gaze(before: Described, after: Described) -> dict[str, Reading]:
    """Of those whose eyes are open before and after."""
    both = np.isfinite(before.irises) & np.isfinite(after.irises)
    if both.sum() < 2:
        return {}
    pixels = Network("darkest disc between En_lnd’s lids", "no network")
    a, b = before.irises[both], after.irises[both]
    agreement = _agreement(a[:, None], b[:, None])
    return {
        "gaze": Reading(
            "irises off sideways, widths of an eye", "↓", _median(np.abs(a - b)), pixels
        ),
        "gaze_correlation": Reading("gaze sideways, correlation", "↑", agreement, pixels),
    }


def _person(before: AgeAndSex | None, after: AgeAndSex | None) -> dict[str, Reading]:
    if before is None or after is None:
        return {}
    heads = Network("En_id’s heads", "trained with")
    same = (before.male > 0.5) == (after.male > 0.5)
    years = float(np.abs(before.years - after.years).mean())
    return {
        "age": Reading("age off, years", "↓", years, heads),
        "sex": Reading("same sex", "↑", float(same.mean()), heads),
    }


def quality(world: World, crops: Crops) -> dict[str, Reading]:
    """How near the faces' pictures are to the originals, one by one and as a whole."""
    features, *_ = networks(world)
    noise, likeness = pixel_figures(crops)
    figures = _compared(world, world.metric_features, features, crops)
    if world.standard is not None:
        found = _compared(world, world.standard, STANDARD, crops)
        figures |= {f"{name}_standard": reading for name, reading in found.items()}
    figures |= {
        "psnr": Reading("PSNR, dB (at most 99)", "↑", noise),
        "ssim": Reading("SSIM", "↑", likeness),
    }
    unnatural, own = (
        unnaturalness(crops.originals, faces) for faces in (crops.outputs, crops.originals)
    )
    if unnatural is not None and own is not None:
        label = f"NIQE, these originals being natural, which have {own.mean():.2f}"
        figures["niqe"] = Reading(label, "↓", float(unnatural.mean()))
    return figures


def _compared(
    world: World, metric: MetricNetwork, network: Network, crops: Crops
) -> dict[str, Reading]:
    """FID, LPIPS and, of enough pictures, KID."""
    from torchmetrics.image.kid import poly_mmd

    before, after = (
        _each(world, metric.pooled, faces) for faces in (crops.originals, crops.outputs)
    )
    apart = float(distances(world, crops, metric).mean())
    figures = {
        "fid": Reading(metric.fid_label, "↓", frechet_distance(before, after), network),
        "lpips": Reading(metric.lpips_label, "↓", apart, network),
    }
    if len(before) >= KID_LEAST:
        kid = poly_mmd(torch.from_numpy(before), torch.from_numpy(after)).item()
        label = metric.fid_label.replace("FID", "KID")
        figures["kid"] = Reading(label, "↓", float(kid), network)
    return figures


def pixel_figures(crops: Crops) -> tuple[float, float]:
    """Peak signal-to-noise ratio in dB and structural similarity (Wang et al. 2004), means of all
    faces."""
    from torchmetrics.functional.image import peak_signal_noise_ratio as psnr
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    shares = []
    for pair in zip(crops.outputs, crops.originals, strict=True):
        made, original = (to_tensor(face) for face in pair)
        likeness = ssim(made, original, data_range=(-1.0, 1.0))
        assert isinstance(likeness, Tensor)  # it was not asked for the whole map
        noise = float(psnr(made, original, data_range=(-1.0, 1.0)))
        shares.append([min(noise, 99.0), float(likeness)])
    noises, likenesses = np.mean(shares, axis=0).tolist()
    return noises, likenesses


@torch.inference_mode()
def distances(world: World, crops: Crops, metric: MetricNetwork | None = None) -> Rows:
    """The perceptual distance of each pair, `[N]`, in the world's metric features unless another
    `metric` is given."""
    network = metric or world.metric_features
    pairs = np.stack([crops.originals, crops.outputs], axis=1)

    def compare(stacked: Tensor) -> Tensor:
        return network.distance(stacked[::2], stacked[1::2])

    return _each(world, compare, pairs.reshape(-1, *pairs.shape[2:]))


@torch.inference_mode()
def _each(world: World, network: Callable[[Tensor], Tensor], faces: Pixels) -> Rows:
    parts = [
        network(to_tensor(faces[i : i + BATCH]).to(world.device)).double().cpu()
        for i in range(0, len(faces), BATCH)
    ]
    return torch.cat(parts).numpy()


def _turned(before: Rows, after: Rows, side: int) -> Rows:
    """Degrees between the rotations of two heads, by six landmarks of each `[N,68,2]`."""
    camera = np.array([[2.0 * side, 0, side / 2], [0, 2.0 * side, side / 2], [0, 0, 1]])

    def rotation(points: Rows) -> Rows:
        _, vector, _ = cv2.solvePnP(HEAD, points[list(AT)], camera, None, flags=cv2.SOLVEPNP_SQPNP)
        return np.asarray(cv2.Rodrigues(vector)[0])

    turns = [rotation(a).T @ rotation(b) for a, b in zip(before, after, strict=True)]
    cosines = (np.trace(np.stack(turns), axis1=1, axis2=2) - 1) / 2
    return np.asarray(np.degrees(np.arccos(np.clip(cosines, -1, 1))))


def _openings(world: World, images: Tensor) -> Tensor:
    """How far mouth and eyes are open, by the world's contours, else by its landmarks."""
    if world.contours is not None:
        return world.contours.openings(world.contours(images))
    points = world.landmarks(images)
    spans = [(points[:, a] - points[:, b]).norm(dim=1) for a, b in OPPOSITE]
    eyes: Tensor = (points[:, 36] - points[:, 45]).norm(dim=1)
    return torch.stack(spans, 1) / eyes[:, None]


def _agreement(before: Rows, after: Rows) -> float:
    """The mean correlation over columns that vary at all."""
    varied = [
        np.corrcoef(a, b)[0, 1]
        for a, b in zip(before.T, after.T, strict=True)
        if a.std() > 1e-9 and b.std() > 1e-9
    ]
    return float(np.mean(varied)) if varied else 0.0


def _median(values: Rows) -> float:
    return float(np.median(values))
