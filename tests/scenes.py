"""Pictures whose faces are known: heads pasted at any size, turned, half hidden, cut by the frame.

For measuring detectors. The heads are aligned photographs or rendered people; a head's face is the
ellipse in its upright face box, from forehead to chin, and stays so when the head is turned: the
true box is the smallest upright one around the turned ellipse.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from deid.pixels import Pixels, to_pixels
from deid.seeds import numpy_generator
from deid.worlds.mini.render.parameters import random_parameters
from deid.worlds.mini.render.scenes import box_of, render_person, render_scene

Floats = NDArray[np.float32]

SIZES = (16.0, 400.0)  # height of the upright face box, forehead to chin, pixels
BACKGROUNDS = ("renderer", "gradient", "noise", "texture")
# Faces of FFHQ-aligned squares, as shares of the side: what SCRFD, YuNet and MTCNN agree on.
ALIGNED_FACE = (0.25, 0.19, 0.75, 0.88)


@dataclass(frozen=True)
class Head:
    """A head to paste: `rgb uint8 [S,S,3]`, `alpha float32 [S,S]` in [0, 1], its face box `[4]`."""

    rgb: Pixels
    alpha: Floats
    box: Floats


@dataclass(frozen=True)
class Composed:
    """A picture and the truth about its K faces."""

    pixels: Pixels
    boxes: Floats  # [K,4] around the turned face; may leave the picture
    heights: Floats  # [K] of the upright face box
    angles: Floats  # [K] degrees, clockwise
    hidden: Floats  # [K] share of the face behind something
    cut: Floats  # [K] share of the true box beyond the frame
    background: str


@dataclass(frozen=True)
class Trials:
    """How often a face is put to which test. The rest is upright to within 15°, whole, free."""

    turned: float = 0.4  # by any angle
    hidden: float = 0.2  # by 15 to 40 %
    cut: float = 0.12  # by 10 to 40 %


@dataclass(frozen=True)
class _Face:
    height: float
    angle: float
    center: tuple[float, float]
    hidden: float


def photographs(folder: Path, count: int = 200) -> list[Head]:
    """The first `count` aligned 256-pixel portraits of `folder`, cut out softly."""
    heads = []
    for index, file in enumerate(sorted(folder.glob("*.jpg"))[:count]):
        rgb = np.asarray(cv2.imread(str(file))[..., ::-1], dtype=np.uint8)
        side = rgb.shape[0]
        box = np.array(ALIGNED_FACE, np.float32) * side
        heads.append(Head(rgb, _matte(side, square=index % 4 == 0), box))
    return heads


def rendered(count: int, side: int = 256, seed: int = 0) -> list[Head]:
    """`count` people of the mini world, head and shoulders, by number."""
    rows = torch.from_numpy(random_parameters(range(count), seed=seed))
    heads = []
    for row in rows:
        person = render_person(row, side)
        rgb = to_pixels(person.rgb[None])[0]
        heads.append(Head(rgb, person.alpha.numpy(), box_of(person.landmarks)))
    return heads


def compose(
    seed: int,
    heads: Sequence[Head],
    people: int,
    size: tuple[int, int],
    trials: Trials = Trials(),
    sizes: tuple[float, float] = SIZES,
    background: str | None = None,
) -> Composed:
    """`people` heads in a picture of `size` (H, W); the same arguments give the same picture.

    Heights are spread evenly over their logarithm, up to what `people` leave room for; no head
    lies over another's face.
    """
    random = numpy_generator("scenes/composed", people, seed)
    kind = background or BACKGROUNDS[random.integers(len(BACKGROUNDS))]
    canvas = behind(kind, size, random).astype(np.float32)
    faces = _places(random, people, size, trials, sizes)
    boxes = np.zeros((people, 4), np.float32)
    for i, face in enumerate(faces):
        head = heads[random.integers(len(heads))]
        boxes[i] = _paste(canvas, head, face, random)
    limit = np.array([size[1], size[0]] * 2, np.float32)
    inside = _area(np.clip(boxes, 0, limit))
    return Composed(
        canvas.round().clip(0, 255).astype(np.uint8),
        boxes,
        np.array([f.height for f in faces], np.float32),
        np.array([f.angle for f in faces], np.float32),
        np.array([f.hidden for f in faces], np.float32),
        1 - inside / np.maximum(_area(boxes), 1e-6),
        kind,
    )


def behind(kind: str, size: tuple[int, int], random: np.random.Generator) -> Pixels:
    """A background `uint8 [H,W,3]` without anybody."""
    height, width = size
    if kind == "renderer":
        return render_scene(int(random.integers(1 << 31)), 0, size).pixels
    corners = random.integers(0, 256, (2, 2, 3)).astype(np.uint8)
    smooth = cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR)
    if kind == "gradient":
        return np.asarray(smooth, np.uint8)
    if kind == "noise":
        grain = int(random.choice([1, 2, 4, 12, 40]))
        cells = random.integers(0, 256, (-(-height // grain), -(-width // grain), 3), np.uint8)
        return np.asarray(cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC))
    canvas = np.ascontiguousarray(smooth)
    for _ in range(height * width // 6000):
        _scribble(canvas, random)
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), float(random.uniform(0.5, 1.5))), np.uint8)


def _scribble(canvas: Pixels, random: np.random.Generator) -> None:
    """A random stroke, plate or disc: something with edges."""
    limit = np.array([canvas.shape[1], canvas.shape[0]])
    center = random.uniform(0, limit)
    reach = np.exp(random.uniform(np.log(4), np.log(90), 2))
    low, high = (np.round(center + sign * reach).astype(int).tolist() for sign in (-1, 1))
    color = tuple(int(c) for c in random.integers(0, 256, 3))
    kind = random.integers(3)
    if kind == 0:
        cv2.line(canvas, low, high, color, int(random.integers(1, 8)), cv2.LINE_AA)
    elif kind == 1:
        cv2.rectangle(canvas, low, high, color, int(random.choice([-1, 2, 4])), cv2.LINE_AA)
    else:
        axes = np.round(reach).astype(int).tolist()
        middle = np.round(center).astype(int).tolist()
        turn = float(random.uniform(0, 180))
        cv2.ellipse(canvas, middle, axes, turn, 0, 360, color, int(random.choice([-1, 3])))


def _matte(side: int, square: bool) -> Floats:
    """What is taken of a portrait: its head, or, as a poster would, all of it."""
    if square:
        return np.ones((side, side), np.float32)
    y, x = (np.mgrid[:side, :side] + 0.5) / side - 0.5
    distance = np.hypot(x / 0.44, y / 0.49)
    return np.asarray(np.clip((1 - distance) / 0.06, 0, 1), np.float32)


def _places(
    random: np.random.Generator,
    people: int,
    size: tuple[int, int],
    trials: Trials,
    sizes: tuple[float, float],
) -> list[_Face]:
    """Where each face is; the largest are placed first, one without room shrinks."""
    room = 0.42 * np.sqrt(size[0] * size[1] / max(people, 1))
    largest = max(sizes[0], min(sizes[1], 0.62 * min(size), room * 1.6))
    heights = np.exp(random.uniform(np.log(sizes[0]), np.log(largest), people))
    faces: list[_Face] = []
    for height in np.sort(heights)[::-1]:
        turned = random.random() < trials.turned
        angle = random.uniform(-180, 180) if turned else random.uniform(-15, 15)
        hidden = random.uniform(0.15, 0.4) if random.random() < trials.hidden else 0.0
        cut = random.random() < trials.cut
        center = None
        while center is None:
            center = _free(random, height, cut, size, faces)
            height = height if center is not None else max(sizes[0], 0.85 * height)
        faces.append(_Face(float(height), float(angle), center, float(hidden)))
    return faces


def _free(
    random: np.random.Generator,
    height: float,
    cut: bool,
    size: tuple[int, int],
    faces: Sequence[_Face],
) -> tuple[float, float] | None:
    """A center at which a head covers no other's face, if 60 tries find one."""
    limit = np.array([size[1], size[0]], np.float64)
    for _ in range(60):
        center = random.uniform(0.55 * height, np.maximum(limit - 0.55 * height, 0.56 * height))
        if cut:
            axis = random.integers(2)
            beyond = random.uniform(0.1, 0.4) * 0.85 * height
            reach = 0.42 * height - beyond  # of the face, on this side of the edge
            center[axis] = reach if random.random() < 0.5 else limit[axis] - reach
        apart = [np.hypot(*(center - f.center)) / (height + f.height) for f in faces]
        if all(share > 0.72 for share in apart):
            return float(center[0]), float(center[1])
    return None


def _paste(canvas: Floats, head: Head, face: _Face, random: np.random.Generator) -> Floats:
    """Lay a head over `canvas` in place; returns the true box of its face."""
    rgb, alpha = head.rgb, head.alpha
    if face.hidden:
        rgb, alpha = _hide(head, face.hidden, random)
    scale = face.height / (head.box[3] - head.box[1])
    if scale < 1:  # averaged here, because a warp only interpolates
        side = max(8, round(rgb.shape[0] * scale))
        ratio = side / rgb.shape[0]
        rgb = np.asarray(cv2.resize(rgb, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
        alpha = np.asarray(cv2.resize(alpha, (side, side), interpolation=cv2.INTER_AREA))
    else:
        ratio = 1.0
    middle = (head.box[:2] + head.box[2:]) / 2
    turn = np.deg2rad(face.angle)
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    affine = np.concatenate([linear, (np.array(face.center) - linear @ middle)[:, None]], 1)
    affine[:, :2] /= ratio
    affine[:, 2] += affine[:, :2].sum(1) * 0.5 - 0.5  # OpenCV has pixel centers at integers
    size = (canvas.shape[1], canvas.shape[0])
    over = cv2.warpAffine(rgb, affine, size, borderMode=cv2.BORDER_REPLICATE)
    mask = cv2.warpAffine(alpha, affine, size)[..., None]
    canvas += mask * (over - canvas)
    half = (head.box[2:] - head.box[:2]) / 2
    extent = np.sqrt((linear * half).__pow__(2).sum(1))
    return np.concatenate([face.center - extent, face.center + extent]).astype(np.float32)


def _hide(head: Head, share: float, random: np.random.Generator) -> tuple[Pixels, Floats]:
    """Something plain or grained over a share of the face: from a side, as a bar, or as a blob."""
    x0, y0, x1, y1 = head.box.tolist()
    width, height = x1 - x0, y1 - y0
    side = head.rgb.shape[0]
    y, x = np.mgrid[:side, :side] + 0.5
    kind = random.integers(3)
    if kind == 0:
        edges = [x < x0 + share * width, x > x1 - share * width, y > y1 - share * height]
        mask = edges[random.integers(3)]
    elif kind == 1:
        middle = y0 + random.uniform(0.2, 0.8) * height
        mask = (abs(y - middle) < share * height / 2) & (x > x0 - 8) & (x < x1 + 8)
    else:
        cx, cy = x0 + random.uniform(0.2, 0.8) * width, y0 + random.uniform(0.3, 0.9) * height
        radius = np.sqrt(share * width * height / 4)
        mask = np.hypot(x - cx, y - cy) < radius
    color = random.integers(0, 256, 3) + random.normal(0, random.choice([0, 25]), (side, side, 3))
    rgb = np.where(mask[..., None], color.clip(0, 255), head.rgb).astype(np.uint8)
    return rgb, np.where(mask & (head.alpha > 0), 1, head.alpha).astype(np.float32)


def _area(boxes: Floats) -> Floats:
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1), np.float32)
