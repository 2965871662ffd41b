"""What becomes of faces that are small, large, turned, covered, young or old, through `deid run`.

    python -m benchmarks.conditions PICTURES OUT [--count 20] [--only NAME …] [--detect-size N]

PICTURES is a folder of portraits, one face each. Each condition takes `--count` faces at most:
portraits scaled so that the face's box is so many pixels wide; portraits with something painted
before the face; those who wear glasses or whose hair hangs over the brows (`deid.imaging.flaws`),
and the youngest and the oldest (as HSE_FaceRec says); and people whom the generator draws without
truncation, by how far their head is turned. OUT, outside of the repository, gets a sheet for each
condition, originals above: look at them.

A row says how many faces ended as a swap at the first try, as a later one, in pixels or under a
mask, and in how many pictures none was found (which `deid run` refuses); and of the swaps in how
many the world's detector finds a face in one pass, and how far pose (degrees) and inner landmarks
(in distances of the eyes' outer corners; medians) are off. All of what is written was verified by
the gate's two judges.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.photographs import loaded
from deid.api import deidentify
from deid.attack.groups import age_and_sex
from deid.batch.in_memory import Result
from deid.errors import DeidError
from deid.faces.alignment import INNER, Points, apply_affine
from deid.faces.head_turn import angle, straight
from deid.imaging.align import Square, crop_face
from deid.imaging.flaws import FRINGE, SURELY, bridge, fringe
from deid.pixels import Pixels, to_pixels, to_tensor
from deid.pool import keep_memory
from deid.seeds import torch_generator
from deid.worlds.world import World

WIDTHS = (30, 60, 120, 250, 500, 1000, 1500)
"""Of a face's box, in pixels."""

TURNS = ((0, 15), (15, 30), (30, 45), (45, 90))
"""Degrees."""

DRAWN = 1500
"""People among whom turned heads are looked for."""

SIDE, SEED = 256, 3_000_000
SHOWN = 160
"""The height of a picture in a sheet."""


@dataclass(frozen=True)
class Portrait:
    """A picture `uint8 [H,W,3]`, its face's box `[4]`, FFHQ square and landmarks `[68,2]` there."""

    picture: Pixels
    box: Points
    square: Square
    landmarks: Points


def main() -> None:
    """Print a row for each condition."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--detect-size", type=int)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    args.out.mkdir(parents=True, exist_ok=True)
    world, _ = loaded()
    files = sorted(f for f in args.pictures.iterdir() if f.suffix in (".jpg", ".png"))
    portraits = [one for file in files if (one := portrait(world, read(file))) is not None]
    for name, pictures in conditions(world, portraits, args.count).items():
        if not args.only or name in args.only:
            row(name, world, pictures(), args.out, args.detect_size)


def read(file: Path) -> Pixels:
    """A picture `uint8 [H,W,3]`."""
    return np.ascontiguousarray(cv2.imread(str(file))[..., ::-1])


def portrait(world: World, picture: Pixels) -> Portrait | None:
    """With its one face, as the world's detector sees it in one pass; None without, or of more."""
    found = world.detector.detect([picture])[0]
    if len(found.boxes) != 1:
        return None
    square = Square(found.points[0].astype(np.float64))
    seen = landmarks_of(world, crop_face(picture, square, SIDE)[None])[0]
    landmarks = apply_affine(square.to_picture(SIDE), seen)
    return Portrait(picture, found.boxes[0].astype(np.float64), square, landmarks)


def conditions(
    world: World, portraits: Sequence[Portrait], count: int
) -> Mapping[str, Callable[[], list[Pixels]]]:
    """By name, what makes the pictures of each."""
    first = portraits[:count]
    made: dict[str, Callable[[], list[Pixels]]] = {
        f"{width} px": partial(lambda w: [scaled(one, w) for one in first], width)
        for width in WIDTHS
    }
    for name, cover in COVERS.items():
        made[name] = partial(lambda c: [covered(one, c) for one in first], cover)
    looked = [(one, upright(one)) for one in portraits]
    person = age_and_sex(world, np.stack([crop for _, (crop, _) in looked]))
    assert person is not None, "the photo world tells ages"
    by_age = [portraits[i].picture for i in np.argsort(person.years)]
    made["youngest"] = lambda: by_age[:count]
    made["oldest"] = lambda: by_age[::-1][:count]
    for name, seen, least in (("glasses", bridge, SURELY), ("fringe", fringe, FRINGE)):
        those = [one.picture for one, (crop, points) in looked if seen(crop, points) > least]
        made[name] = partial(lambda t: t[:count], those)
    for low, high in TURNS:
        made[f"turned {low}° to {high}°"] = partial(heads, world, low, high, count)
    return made


def upright(one: Portrait) -> tuple[Pixels, Points]:
    """Its FFHQ crop and the landmarks there."""
    points = apply_affine(one.square.to_crop(SIDE), one.landmarks)
    return crop_face(one.picture, one.square, SIDE), points


@torch.inference_mode()
def landmarks_of(world: World, faces: Pixels) -> Points:
    """Of `uint8 [N,S,S,3]`, `[N,68,2]`."""
    return np.asarray(world.landmarks(to_tensor(faces).to(world.device)).double().cpu().numpy())


def scaled(one: Portrait, width: int) -> Pixels:
    """A picture in which the face is so wide."""
    scale = width / float(one.box[2] - one.box[0])
    size = [max(1, round(side * scale)) for side in one.picture.shape[1::-1]]
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(one.picture, size, interpolation=how), np.uint8)


def covered(
    one: Portrait, cover: Callable[[Points], tuple[Points, tuple[int, int, int]]]
) -> Pixels:
    """With something before the face, its edges softened as a lens does."""
    outline, color = cover(one.landmarks)
    mask = np.zeros(one.picture.shape[:2], np.float32)
    cv2.fillConvexPoly(mask, np.rint(cv2.convexHull(outline.astype(np.float32))).astype(int), 1.0)
    mask = cv2.GaussianBlur(mask, (0, 0), 1.0)[..., None]
    mixed = one.picture * (1.0 - mask) + mask * np.array(color)
    return np.rint(mixed).astype(np.uint8)


def _eyes(points: Points) -> Points:
    """The vector between the outer corners of the eyes."""
    return points[45] - points[36]


def _surgical(points: Points) -> tuple[Points, tuple[int, int, int]]:
    return np.concatenate([points[2:15], points[28:29]]), (150, 190, 205)


def _sunglasses(points: Points) -> tuple[Points, tuple[int, int, int]]:
    down = np.array([-_eyes(points)[1], _eyes(points)[0]])
    ends = points[[36, 45]] + np.array([[-0.12], [0.12]]) * _eyes(points)
    return np.concatenate([ends - 0.12 * down, ends + 0.2 * down]), (25, 25, 30)


def _hand(points: Points) -> tuple[Points, tuple[int, int, int]]:
    """As if over mouth and one cheek."""
    middle, across = points[[48, 54]].mean(axis=0) - 0.15 * _eyes(points), _eyes(points)
    around = np.linspace(0, 2 * np.pi, 40)[:, None]
    down = np.array([-across[1], across[0]])
    return middle + 0.4 * np.cos(around) * across + 0.28 * np.sin(around) * down, (205, 150, 125)


def _strand(points: Points) -> tuple[Points, tuple[int, int, int]]:
    """As if of hair over one eye."""
    eye, across = points[36:42].mean(axis=0), _eyes(points)
    down = np.array([-across[1], across[0]])
    corners = [(-0.22, -0.9), (0.02, -0.9), (0.1, 0.5), (-0.08, 0.6)]
    return np.stack([eye + x * across + y * down for x, y in corners]), (50, 35, 28)


COVERS = {
    "mask before mouth and nose": _surgical,
    "sunglasses": _sunglasses,
    "hand before the mouth": _hand,
    "strand over an eye": _strand,
}


@torch.inference_mode()
def heads(world: World, low: int, high: int, count: int) -> list[Pixels]:
    """Drawn people whose head is turned by so many degrees, right, left, up or down."""
    random, chosen, generator = torch_generator("conditions", SEED), [], world.generator
    middle = None
    for _ in range(DRAWN // 25):
        z = torch.randn(25, generator.z_dim, generator=random)
        w = generator.mapping(z.to(world.device))
        points = landmarks_of(world, to_pixels(world.draw(w, 128).clamp(-1.0, 1.0)))
        middle = straight(points.mean(axis=0)) if middle is None else middle
        for one, landmarks in zip(w, points, strict=True):
            if low <= angle(landmarks, middle) < high and len(chosen) < count:
                chosen.append(to_pixels(world.draw(one[None], SIDE).clamp(-1.0, 1.0))[0])
    return chosen


def row(
    name: str, world: World, pictures: Sequence[Pixels], out: Path, detect_size: int | None
) -> None:
    """Make them safe, print what became of them, and draw the sheet."""
    made = [(picture, safe(picture, detect_size)) for picture in pictures]
    kinds = [kind(result) for _, result in made]
    swaps = [
        (picture, result.pixels)
        for (picture, result), became in zip(made, kinds, strict=True)
        if result is not None and became in BECAME[:2]
    ]
    found = [len(world.detector.detect([after])[0].boxes) > 0 for _, after in swaps]
    moves = [one for pair in swaps if (one := moved(world, *pair)) is not None]
    figures = [f"{np.mean(found):.2f}" if found else "–", "–", "–"]
    if moves:
        pose, off = np.median(moves, axis=0)
        figures[1:] = f"{pose:.1f}", f"{off:.3f}"
    cells = [name, str(len(pictures)), *(str(kinds.count(key)) for key in BECAME), *figures]
    print(f"| {' | '.join(cells)} |", flush=True)
    if shown := [(picture, result.pixels) for picture, result in made if result is not None]:
        cv2.imwrite(str(out / f"{name.replace(' ', '-')}.png"), sheet(shown)[..., ::-1])


@torch.inference_mode()
def moved(world: World, before: Pixels, after: Pixels) -> tuple[float, float] | None:
    """By how many degrees its head, and how far inner landmarks are off; None where no single face
    is found in one pass."""
    one = portrait(world, before)
    if one is None:
        return None
    crops = np.stack([crop_face(picture, one.square, SIDE) for picture in (before, after)])
    points = landmarks_of(world, crops)
    off = np.linalg.norm(points[0] - points[1], axis=1)[INNER].mean()
    return angle(points[1], points[0]), float(off / np.linalg.norm(points[0, 36] - points[0, 45]))


BECAME = ("first try", "later try", "pixels or mask", "refused")


def safe(picture: Pixels, detect_size: int | None) -> Result | None:
    """What `deid run` makes of it; None where it finds no face."""
    try:
        return deidentify(picture, "swap", detect_size=detect_size)
    except DeidError as error:
        if "no face" not in str(error):
            raise
        return None


def kind(result: Result | None) -> str:
    """Of `BECAME`, by the face that fared worst."""
    if result is None:
        return BECAME[3]
    if any(not face.method.startswith("swap") for face in result.faces):
        return BECAME[2]
    return BECAME[0] if result.level == 1 else BECAME[1]


def sheet(pairs: Sequence[tuple[Pixels, Pixels]]) -> Pixels:
    """Originals above outputs."""
    rows = []
    for side in zip(*pairs, strict=True):
        small = [cv2.resize(p, (round(p.shape[1] * SHOWN / p.shape[0]), SHOWN)) for p in side]
        rows.append(np.concatenate(small, axis=1))
    return np.concatenate(rows)


if __name__ == "__main__":
    main()
