"""The windows on which the face detector is trained, and what it should answer for each.

Windows come from scenes and aligned renders, at the sizes of the pyramid's levels. Some show no
face: empty backdrops, noise of every grain, and faces covered as a mask would cover them.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from deid.faces.alignment import five_points
from deid.nets.center_net import STRIDE, UNIT
from deid.pixels import Pixels
from deid.progress import progress
from deid.seeds import seed_of
from deid.worlds.mini.pretrain.dataset import Renders
from deid.worlds.mini.render.scenes import box_of, render_scene

WINDOW = 96
KNOWN = (10.0, 32.0)  # sides of faces (root of the box's area) that the net must find
SCENE_SIZE = (224, 256)


@dataclass(frozen=True)
class Picture:
    """A picture and its faces."""

    pixels: Pixels
    boxes: NDArray[np.float32]  # [K,4]
    points: NDArray[np.float32]  # [K,5,2]
    clear: NDArray[np.bool_]  # [K]; False: somebody stands before it, either answer will do


def scene(index: int, stream: str) -> Picture:
    """Scene `index` of a stream, with 0 to 5 people of any size."""
    people = index % 6
    drawn = render_scene(seed_of(stream, index), people, SCENE_SIZE)
    points = five_points(drawn.landmarks).astype(np.float32)
    return Picture(drawn.pixels, drawn.boxes, points, unhidden(drawn.boxes))


def draw_scenes(count: int) -> list[Picture]:
    """The first `count` scenes of the training."""
    drawn = []
    with progress("scenes", count) as bar:
        for index in range(count):
            drawn.append(scene(index, "mini/scenes/train"))
            bar.advance()
    return drawn


def unhidden(boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which faces `[K,4]` of a scene no larger, hence nearer, person hides by more than a fifth.

    A person is taken as a head a fifth wider than the face and shoulders two faces wide below it.
    """
    sides = _sides(boxes)
    clear = np.ones(len(boxes), np.bool_)
    for i, box in enumerate(boxes):
        for nearer in boxes[sides > sides[i]]:
            width, height = nearer[2:] - nearer[:2]
            head = nearer + np.array([-0.25 * width, -0.2 * height, 0.25 * width, 0.2 * height])
            body = np.array([nearer[0] - width, nearer[3], nearer[2] + width, 1e6])
            hidden = max(_common(box, head), _common(box, body))
            clear[i] &= hidden < 0.2 * sides[i] ** 2
    return clear


def _common(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    extent = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    return float(extent.clip(0).prod())


def aligned(renders: Renders, index: int) -> Picture:
    """One aligned render."""
    landmarks = renders.landmarks(np.array([index]))
    pixels = renders.images(np.array([index]))[0]
    points = five_points(landmarks).astype(np.float32)
    return Picture(pixels, box_of(landmarks[0])[None], points, np.ones(1, np.bool_))


def window(picture: Picture, rng: np.random.Generator) -> Picture:
    """`WINDOW` pixels square of the picture at a random scale, mostly with a face of known size."""
    boxes = picture.boxes
    if len(boxes):
        chosen = boxes[rng.integers(len(boxes))]
        side = np.exp(rng.uniform(np.log(9.0), np.log(36.0)))
        scale = min(1.5, side / _sides(chosen[None])[0])
        middle = (chosen[:2] + chosen[2:]) / 2 * scale
    else:
        scale, middle = rng.uniform(0.1, 1.0), rng.uniform(0, 60, 2)
    height, width = (max(1, round(n * scale)) for n in picture.pixels.shape[:2])
    real = np.array([width / picture.pixels.shape[1], height / picture.pixels.shape[0]])
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(picture.pixels, (width, height), interpolation=kind)
    corner = np.round(middle - rng.uniform(8, WINDOW - 8, 2)).astype(int)
    rows = np.clip(np.arange(WINDOW) + corner[1], 0, height - 1)
    columns = np.clip(np.arange(WINDOW) + corner[0], 0, width - 1)
    moved = boxes * np.tile(real, 2) - np.tile(corner, 2)
    points = picture.points * real - corner
    return Picture(
        small[rows][:, columns].astype(np.uint8),
        moved.astype(np.float32),
        points.astype(np.float32),
        picture.clear,
    )


def covered(picture: Picture, rng: np.random.Generator) -> Picture:
    """The picture with an opaque ellipse or rectangle over every face, hence without faces."""
    pixels = np.ascontiguousarray(picture.pixels).copy()
    for box in picture.boxes:
        color = tuple(int(c) for c in rng.integers(0, 256, 3)) if rng.random() < 0.7 else (0, 0, 0)
        center, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * rng.uniform(1.0, 1.4)
        low, high = np.round(center - half).astype(int), np.round(center + half).astype(int)
        if rng.random() < 0.5:
            cv2.rectangle(pixels, low.tolist(), high.tolist(), color, -1)
        else:
            axes = np.round(half * 1.15).astype(int).tolist()
            cv2.ellipse(pixels, np.round(center).astype(int).tolist(), axes, 0, 0, 360, color, -1)
    return Picture(pixels, picture.boxes[:0], picture.points[:0], picture.clear[:0])


def texture(rng: np.random.Generator) -> Picture:
    """Colored noise of some grain and contrast; nobody is in it."""
    grain = int(rng.choice([WINDOW, WINDOW, 48, 32, 16, 8, 4]))
    low, high = np.sort(rng.integers(0, 256, 2))
    coarse = rng.integers(low, high + 1, (grain, grain, 3), np.uint8)
    kind = cv2.INTER_NEAREST if rng.random() < 0.5 else cv2.INTER_CUBIC
    pixels = np.asarray(cv2.resize(coarse, (WINDOW, WINDOW), interpolation=kind), np.uint8)
    if rng.random() < 0.5:
        pixels = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.5, 3.0)).astype(np.uint8)
    return Picture(
        pixels, np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, np.bool_)
    )


def _sides(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """The root of each box's area, `[K]`."""
    extent = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-3)
    return np.asarray(np.sqrt(extent[:, 0] * extent[:, 1]), np.float32)


@dataclass(frozen=True)
class Targets:
    """What the net should say, at every cell."""

    heat: NDArray[np.float32]  # [h,w], 1 at the center of a face
    care: NDArray[np.float32]  # [h,w], 0 where either answer will do
    near: NDArray[np.float32]  # [h,w], weight of the distances
    distances: NDArray[np.float32]  # [14,h,w], in units


def targets(picture: Picture) -> Targets:
    """Faces of known sizes are wanted; a little beyond, either answer will do."""
    cells = WINDOW // STRIDE
    heat, near = np.zeros((cells, cells), np.float32), np.zeros((cells, cells), np.float32)
    care, distances = np.ones_like(heat), np.zeros((14, cells, cells), np.float32)
    places = (np.arange(cells, dtype=np.float32) + 0.5) * STRIDE
    x, y = np.meshgrid(places, places)
    sides = _sides(picture.boxes)
    faces = zip(picture.boxes, picture.points, sides, picture.clear, strict=True)
    for box, points, side, clear in faces:
        center = (box[:2] + box[2:]) / 2
        if not (clear and KNOWN[0] <= side <= KNOWN[1]):
            if not clear or 0.6 * KNOWN[0] < side < 1.35 * KNOWN[1]:
                care[(x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3])] = 0
            continue
        spread = max(2.0, 0.14 * side)
        bump = np.exp(-((x - center[0]) ** 2 + (y - center[1]) ** 2) / (2 * spread**2))
        column, row = (center // STRIDE).astype(int)
        if 0 <= row < cells and 0 <= column < cells:
            bump[row, column] = 1.0
        closer = bump > heat
        values = np.concatenate(
            [
                np.stack([x - box[0], y - box[1], box[2] - x, box[3] - y]),
                (points[:, :, None, None] - np.stack([x, y])).reshape(10, cells, cells),
            ]
        )
        distances[:, closer] = values[:, closer] / UNIT
        near = np.where(closer, np.where(bump > 0.4, bump, 0), near)
        heat = np.maximum(heat, bump)
    return Targets(heat.astype(np.float32), care, near.astype(np.float32), distances)
