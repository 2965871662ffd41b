"""Windows full of heads of any size, rotation and place, for training the multi-scale detector.

Scenes show people who stand upright side by side. Here heads lie anywhere before anything, some
half hidden or cut by the frame; and besides faces of the sizes to be found there are far smaller
and far larger ones, so that neither a crowd nor a cheek is taken for a face.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from deid.faces.alignment import apply_affine, five_points
from deid.pixels import Pixels, to_pixels
from deid.progress import progress
from deid.worlds.mini.pretrain.windows import Picture
from deid.worlds.mini.render.parameters import random_parameters
from deid.worlds.mini.render.scenes import box_of, render_person, render_scene

PORTRAIT = 112
BACKDROP = (160, 160)
UPRIGHT = 20.0  # degrees by which a head that stands upright tilts at most
SIZES = {"known": (9.0, 38.0), "far": (2.5, 8.0), "near": (50.0, 140.0)}
"""Heights of faces, in pixels of the window."""


@dataclass(frozen=True)
class Head:
    """A head to lay over something: `rgb uint8 [S,S,3]`, `alpha float32 [S,S]` in [0, 1]."""

    rgb: Pixels
    alpha: NDArray[np.float32]
    box: NDArray[np.float32]  # [4] of its face
    points: NDArray[np.float32]  # [5,2]


@dataclass(frozen=True)
class HeadsAndBackdrops:
    """What a window is put together from."""

    heads: list[Head]
    backdrops: list[Pixels]


def draw_heads(people: int, seed: int) -> HeadsAndBackdrops:
    """`people` heads and half as many backdrops; other seeds give other people."""
    rows = torch.from_numpy(random_parameters(range(people), seed=seed))
    heads, backdrops = [], []
    with progress("heads", people) as bar:
        for index, row in enumerate(rows):
            person = render_person(row, PORTRAIT)
            rgb = to_pixels(person.rgb[None])[0]
            points = five_points(person.landmarks).astype(np.float32)
            heads.append(Head(rgb, person.alpha.numpy(), box_of(person.landmarks), points))
            if index % 2 == 0:
                backdrops.append(render_scene(seed * 1_000_003 + index, 0, BACKDROP).pixels)
            bar.advance()
    return HeadsAndBackdrops(heads, backdrops)


def crowd(drawn: HeadsAndBackdrops, size: int, rng: np.random.Generator) -> Picture:
    """A window `size` pixels square with 0 to 60 heads, no head over another's face."""
    canvas = behind(drawn, size, rng).astype(np.float32)
    kind = str(rng.choice(["known", "far", "near"], p=[0.8, 0.13, 0.07]))
    low, high = SIZES[kind]
    count = {"known": int(rng.integers(0, 6)), "far": int(rng.integers(6, 60)), "near": 1}[kind]
    heights = np.sort(np.exp(rng.uniform(np.log(low), np.log(high), count)))[::-1]
    boxes, points, places = [], [], np.zeros((0, 3))
    for height in heights:
        center = rng.uniform(-0.2 * height, size + 0.2 * height, 2)
        apart = np.hypot(*(center - places[:, :2]).T) / (height + places[:, 2])
        if (apart < 0.72).any():
            continue
        places = np.concatenate([places, [[*center, height]]])
        head = drawn.heads[rng.integers(len(drawn.heads))]
        box, five = _lay(canvas, head, height, center, rng)
        boxes.append(box)
        points.append(five)
    return Picture(
        canvas.round().clip(0, 255).astype(np.uint8),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(points, np.float32).reshape(-1, 5, 2),
        np.ones(len(boxes), np.bool_),
    )


def behind(drawn: HeadsAndBackdrops, size: int, rng: np.random.Generator) -> Pixels:
    """A background `uint8 [size,size,3]`: a backdrop or a gradient, with or without clutter."""
    if rng.random() < 0.5:
        backdrop = drawn.backdrops[rng.integers(len(drawn.backdrops))]
        side = int(rng.integers(24, backdrop.shape[0] + 1))
        y, x = rng.integers(0, backdrop.shape[0] - side + 1, 2)
        cells = backdrop[y : y + side, x : x + side]
    else:
        cells = rng.integers(0, 256, (2, 2, 3)).astype(np.uint8)
    method = cv2.INTER_AREA if cells.shape[0] > size else cv2.INTER_LINEAR
    canvas = np.asarray(cv2.resize(cells, (size, size), interpolation=method), np.uint8)
    if rng.random() < 0.4:
        for _ in range(rng.integers(1, 25)):
            _clutter(canvas, rng)
        blurred = cv2.GaussianBlur(canvas, (0, 0), float(rng.uniform(0.4, 1.2)))
        canvas = np.asarray(blurred, np.uint8)
    return canvas


def _clutter(canvas: Pixels, rng: np.random.Generator) -> None:
    """A stroke, a plate or a disc: something with edges."""
    size = canvas.shape[0]
    middle = rng.uniform(0, size, 2).astype(int)
    reach = np.exp(rng.uniform(np.log(1.5), np.log(size / 2), 2)).round().astype(int)
    low, high = (middle - reach).tolist(), (middle + reach).tolist()
    color = tuple(int(c) for c in rng.integers(0, 256, 3))
    kind, thick = rng.integers(3), int(rng.choice([-1, 1, 2, 3]))
    if kind == 0:
        cv2.line(canvas, low, high, color, abs(thick), cv2.LINE_AA)
    elif kind == 1:
        cv2.rectangle(canvas, low, high, color, thick, cv2.LINE_AA)
    else:
        rotation = float(rng.uniform(0, 180))
        cv2.ellipse(canvas, middle.tolist(), reach.tolist(), rotation, 0, 360, color, thick)


def _lay(
    canvas: NDArray[np.float32],
    head: Head,
    height: float,
    center: NDArray[np.float64],
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.floating]]:
    """Lay a head over `canvas`; the upright box `[4]` of its rotated face, and its points `[5,2]`.

    A face is the ellipse in its box.
    """
    rgb, alpha = _hidden(head, rng) if rng.random() < 0.2 else (head.rgb, head.alpha)
    scale = height / float(head.box[3] - head.box[1])
    rotation = np.deg2rad(
        rng.uniform(-180, 180) if rng.random() < 0.5 else rng.normal(0, UPRIGHT / 2)
    )
    linear = scale * np.array(
        [[np.cos(rotation), -np.sin(rotation)], [np.sin(rotation), np.cos(rotation)]]
    )
    middle, half = (head.box[:2] + head.box[2:]) / 2, (head.box[2:] - head.box[:2]) / 2
    affine = np.concatenate([linear, (center - linear @ middle)[:, None]], 1)
    side = rgb.shape[0]
    small = max(6, round(side * min(scale, 1.0)))  # averaged here, for a warp only interpolates
    if small < side:
        rgb = np.asarray(cv2.resize(rgb, (small, small), interpolation=cv2.INTER_AREA))
        alpha = np.asarray(cv2.resize(alpha, (small, small), interpolation=cv2.INTER_AREA))
    warp = affine.copy()
    warp[:, :2] *= side / small
    warp[:, 2] += warp[:, :2].sum(1) * 0.5 - 0.5  # OpenCV has pixel centers at integers
    size = canvas.shape[1::-1]
    over = cv2.warpAffine(rgb, warp, size, borderMode=cv2.BORDER_REPLICATE)
    mask = cv2.warpAffine(alpha, warp, size)[..., None]
    canvas += mask * (over - canvas)
    reach = np.sqrt(((linear * half) ** 2).sum(1))
    box = np.concatenate([center - reach, center + reach]).astype(np.float32)
    return box, apply_affine(affine, head.points.astype(np.float64))


def _hidden(head: Head, rng: np.random.Generator) -> tuple[Pixels, NDArray[np.float32]]:
    """The head with something plain or grained over 15 to 40 % of its face."""
    x0, y0, x1, y1 = head.box.tolist()
    width, height, share = x1 - x0, y1 - y0, rng.uniform(0.15, 0.4)
    y, x = np.mgrid[: head.rgb.shape[0], : head.rgb.shape[0]] + 0.5
    kind = rng.integers(5)
    if kind < 3:
        limits = (x < x0 + share * width, x > x1 - share * width, y > y1 - share * height)
        mask = limits[kind]
    elif kind == 3:
        bar = y0 + rng.uniform(0.2, 0.8) * height
        mask = (abs(y - bar) < share * height / 2) & (x > x0 - 4) & (x < x1 + 4)
    else:
        cx, cy = x0 + rng.uniform(0.2, 0.8) * width, y0 + rng.uniform(0.3, 0.9) * height
        mask = np.hypot(x - cx, y - cy) < np.sqrt(share * width * height / 4)
    grain = rng.normal(0, rng.choice([0, 25]), head.rgb.shape)
    color = (rng.integers(0, 256, 3) + grain).clip(0, 255)
    rgb = np.where(mask[..., None], color, head.rgb).astype(np.uint8)
    return rgb, np.where(mask & (head.alpha > 0), 1, head.alpha).astype(np.float32)
