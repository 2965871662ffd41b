"""Scenes: several whole people, unaligned, over a soft backdrop, with true boxes and landmarks.

Sample pictures for a person to try the program on, and training data for the embedded detector.
People stand in slots side by side, the smaller (farther) drawn first, so that faces hardly overlap.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deid.faces.alignment import apply_affine, invert_affine
from deid.pixels import Pixels, to_pixels
from deid.seeds import numpy_generator
from deid.worlds.mini.render.parameters import PARAMETERS
from deid.worlds.mini.render.person import Person, backdrop, person_of
from deid.worlds.mini.render.renderer import draw

# What is drawn of a person: left, top, right, bottom in camera units.
_HEAD = (-2.1, -2.2, 2.1, 2.5)
_BODY = (-3.3, 1.2, 3.3, 3.3)
_PORTRAIT = (-2.9, -2.2)  # left and top; as wide as it is high
_FACE = 3.0  # from brow-top to chin with the forehead, camera units


@dataclass(frozen=True)
class Scene:
    """A picture and the truth about it; K people, in no particular order."""

    pixels: Pixels  # [H,W,3]
    boxes: NDArray[
        np.float32
    ]  # [K,4] x0 y0 x1 y1, forehead to chin; may leave the picture a little
    landmarks: NDArray[np.float32]  # [K,68,2]
    parameters: NDArray[np.float32]  # [K,P]


@dataclass(frozen=True)
class Portrait:
    """One person, unaligned, to be laid over something else."""

    rgb: Tensor  # [3,S,S] in [-1, 1]
    alpha: Tensor  # [S,S] in [0, 1]
    landmarks: NDArray[np.float32]  # [68,2]


def render_scene(seed: int, people: int, size: tuple[int, int], roll: float = 0.25) -> Scene:
    """`people` ≥ 0 persons in a picture of `size` (H, W); the same seed gives the same picture.

    Heads are tilted by up to `roll` radians; faces are about 20 pixels to 0.6 of the height tall.
    """
    random = numpy_generator("mini/scene", people, seed)
    parameters = random.standard_normal((people + 1, PARAMETERS)).astype(np.float32)
    canvas = _behind(torch.from_numpy(parameters[-1:]), size)
    rows = torch.from_numpy(parameters[:people])
    places = _places(random, people, size, roll)
    landmarks = np.zeros((people, 68, 2), np.float32)
    for i in np.argsort([np.hypot(*place[:, 0]) for place in places]):
        person = person_of(rows[i : i + 1])
        _stand(canvas, rows[i : i + 1], person, places[i])
        landmarks[i] = apply_affine(places[i], person.landmarks()[0].double().numpy())
    boxes = np.asarray([box_of(points) for points in landmarks], np.float32).reshape(-1, 4)
    return Scene(to_pixels(canvas)[0], boxes, landmarks, parameters[:people])


def render_person(parameters: Tensor, size: int) -> Portrait:
    """One person `[P]`, head and shoulders upright in a square of `size` pixels, with a matte."""
    row = parameters.reshape(1, -1)
    person = person_of(row)
    scale = size / (-2 * _PORTRAIT[0])
    place = np.array([[scale, 0.0, -_PORTRAIT[0] * scale], [0.0, scale, -_PORTRAIT[1] * scale]])
    with torch.no_grad():
        images, alpha = draw(row, person, invert_affine(place)[None], (size, size))
    points = apply_affine(place, person.landmarks()[0].double().numpy())
    return Portrait(images[0], alpha[0], points.astype(np.float32))


def box_of(landmarks: NDArray[np.floating]) -> NDArray[np.float32]:
    """The box of a face `[68,2]`: its landmarks, and the forehead above the brows."""
    low, high = landmarks.min(axis=0), landmarks.max(axis=0)
    chin_to_brows = landmarks[8] - landmarks[17:27].mean(axis=0)
    forehead = (landmarks[17:27] - 0.35 * chin_to_brows).min(axis=0)
    return np.concatenate([np.minimum(low, forehead), np.maximum(high, low)]).astype(np.float32)


def _behind(row: Tensor, size: tuple[int, int]) -> Tensor:
    """The backdrop `[1,3,H,W]` in [-1, 1]."""
    height, width = size
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
    )
    plain = backdrop(row, x.reshape(1, -1), y.reshape(1, -1))
    return plain.sqrt().mul(2).sub(1).view(1, 3, height, width)


def _places(
    random: np.random.Generator, people: int, size: tuple[int, int], roll: float
) -> list[NDArray[np.float64]]:
    """An affine map, camera → picture, for each person: slots side by side, each its own scale."""
    height, width = size
    slots = random.permutation(people)
    places = []
    for slot in slots:
        room = width / people
        largest = min(0.95 * room, 0.6 * height, 0.62 * 192 if people > 1 else 1e9)
        face = max(
            20.0, np.exp(random.uniform(np.log(min(20.0, largest)), np.log(max(20.0, largest))))
        )
        scale = face / _FACE
        slack = max(0.0, (room - 0.8 * face) / 2)
        x = (slot + 0.5) * room + random.uniform(-slack, slack)
        y = random.uniform(0.62 * face, max(0.63 * face, height - 0.62 * face))
        angle = random.uniform(-roll, roll)
        cos, sin = scale * np.cos(angle), scale * np.sin(angle)
        places.append(np.array([[cos, -sin, x], [sin, cos, y - 0.3 * scale]]))
    return places


@torch.no_grad()
def _stand(canvas: Tensor, row: Tensor, person: Person, place: NDArray[np.float64]) -> None:
    """Draw one person into `canvas` `[1,3,H,W]`, the head only where it can be."""
    x0, y0, x1, y1 = _window(place, _BODY, canvas)
    hx0, hy0, hx1, hy1 = _window(place, _HEAD, canvas)
    if x0 >= x1 or y0 >= y1 or hx0 >= hx1 or hy0 >= hy1:
        return
    head = canvas[:, :, hy0:hy1, hx0:hx1].clone()
    head, _ = draw(row, person, _into(place, hx0, hy0), (hy1 - hy0, hx1 - hx0), head)
    window = canvas[:, :, y0:y1, x0:x1]
    size = (y1 - y0, x1 - x0)
    garment, alpha = draw(row, person, _into(place, x0, y0), size, window, garment_only=True)
    window.copy_(garment)
    # The garment falls straight to the lower border.
    below = canvas[:, :, y1:, x0:x1]
    below.copy_(torch.lerp(below, garment[:, :, -1:], alpha[:, None, -1:]))
    canvas[:, :, hy0:hy1, hx0:hx1] = head


def _window(
    place: NDArray[np.float64], part: tuple[float, float, float, float], canvas: Tensor
) -> tuple[int, int, int, int]:
    """The pixels x0, y0, x1, y1 of a picture that a rectangle of camera coordinates touches."""
    left, top, right, bottom = part
    corners = np.array([[left, top], [right, top], [left, bottom], [right, bottom]])
    at = apply_affine(place, corners)
    border = np.array([canvas.shape[-1], canvas.shape[-2]])
    x0, y0 = np.clip(np.floor(at.min(axis=0)), 0, border).astype(int)
    x1, y1 = np.clip(np.ceil(at.max(axis=0)), 0, border).astype(int)
    return int(x0), int(y0), int(x1), int(y1)


def _into(place: NDArray[np.float64], x: int, y: int) -> NDArray[np.float64]:
    """The map `[1,2,3]` from pixels counted from (x, y) to camera coordinates."""
    to_camera = invert_affine(place)
    to_camera[:, 2] += to_camera[:, :2] @ np.array([x, y])
    return np.asarray(to_camera[None], np.float64)
