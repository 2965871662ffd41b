"""What a method leaves of a person and keeps of a picture, on FFHQ-aligned photographs.

    python benchmarks/photographs.py PICTURES [--method swap …] [--stage-one FOLDER]
        [--stage-two FOLDER] [--judge FILE …] [--as …]

PICTURES is a folder of aligned faces, each of another person, none of them seen in training. The
outputs are those of `deid.anonymize`, before any verification, at 256 px: as they are `made`,
`fitted` to the landmarks of the face whose place they take, `pasted`, pasted with forehead and
hairline (`head`: `--region head`), or with hair and background (`portrait`; `--as`). Judges are the
photo world's held-out recognizers and the files of `--judge` (what `deid.weights.importers` knows);
none had part in training, the first one is the one that gates look at. Landmarks are En_lnd's,
which was trained against and fitted to; mouth, eyes and pose are Face Mesh's, trained against as
well: figures of the expression are those of the objective, not of an independent network.

- matched: share of outputs that a judge matches with their source, at the threshold that 1e-3 of
  the pairs of different originals exceed;
- rank-1: share whose nearest original is their source, in the closed set of all originals; of the
  whole crop, of the new face alone (what was drawn, the rest gray), and of its hull up to the hair,
  where a pasted face still has the person's own forehead;
- found: share of outputs in which a detector finds a face;
- landmarks: median distance of the inner 51 points to the source's, of the distance between the
  outer corners of the eyes; pose: median angle between the planes of the face;
- mouth and eyes: correlation of how far they are open with the source's;
- distance: median of the perceptual distance to the source, in the world's metric features;
- seam: of what is pasted, mean ΔE2000 across the edge above the original's (`benchmarks.seam`).

Intervals are 95 %, by bootstrap over people.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.seam import seam
from deid.anonymize import Anonymizer, ModelPaths, build
from deid.batch.bundle import shipped_bundle
from deid.faces.detection import build_detector
from deid.gate.anonymize import bare
from deid.gate.anonymize import fitted as fitted_head
from deid.gate.calibration import pair_similarities
from deid.gate.geometry import Geometry, replaced_region
from deid.gate.place import Placing, place
from deid.imaging.align import Square
from deid.imaging.fit_landmarks import fit_landmarks
from deid.imaging.paste import Region, face_region, hull_of_landmarks, paste, paste_face
from deid.imaging.portrait import portrait_region
from deid.params import AnonymizeParams, WorldParams
from deid.pixels import to_pixels, to_tensor
from deid.weights.importers import build as build_network
from deid.weights.importers import read_checkpoint
from deid.worlds import load_world
from deid.worlds.public.faces import embedder
from deid.worlds.world import FaceEmbedder, World

Array = NDArray[np.float64]
SIDE, RATE, DRAWS = 256, 1e-3, 1000
WHOLE = np.array([[0.375, 0.475], [0.625, 0.475], [0.5, 0.6], [0.42, 0.725], [0.58, 0.725]])
"""Five points whose FFHQ square is the whole picture, in its sides."""


def main() -> None:
    """Print the figures, one a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--method", dest="methods", nargs="+", default=["swap"])
    parser.add_argument("--stage-one", type=Path, help="a trained stage; else the one shipped")
    parser.add_argument("--stage-two", type=Path, help="the same")
    parser.add_argument("--judge", type=Path, action="append", default=[])
    parser.add_argument("--detector", action="append", default=[])
    parser.add_argument("--as", dest="states", nargs="+", choices=STATES, default=["made"])
    parser.add_argument("--steps", type=int, default=0, help="of refinement (--quality high: 16)")
    parser.add_argument("--keep", help="as --keep-attributes: age,sex,skin,pose")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    world, build_method = loaded(args.stage_one, args.stage_two, args.steps)
    faces = portraits(args.pictures, args.count)
    judges = dict(world.held_out) | {file.stem: recognizer(file) for file in args.judge}
    before = each(world.landmarks, faces)
    kept = {"swap_keep": tuple(args.keep.split(","))} if args.keep else {}
    figures = {}
    for method in args.methods:
        anonymizer = build_method(method, **kept)
        made = torch.cat([anonymizer(faces[i : i + 1], [i]) for i in range(len(faces))])
        for state in args.states:
            print(f"{method}, {state}")
            outputs, new, regions = STATES[state](world, faces, made, before)
            alone = {"the face alone": new, "its hull": hulls(before)}
            shown = identity_figures(judges, faces, outputs, alone)
            shown |= found(world, args.detector, outputs)
            shown |= expression_figures(world, faces, outputs)
            if regions:
                shown["seam"] = interval(seams(faces, outputs, regions), np.mean)
            for name, value in shown.items():
                print(f"{name:34}" + "  ".join(f"{part:.4f}" for part in np.atleast_1d(value)))
            print(flush=True)
            figures[f"{method}, {state}"] = shown
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


def loaded(
    stage_one: Path | None = None, stage_two: Path | None = None, steps: int = 0
) -> tuple[World, Callable[..., Anonymizer]]:
    """The photo world, and what builds a method with the stages given or shipped, and with changes
    of `AnonymizeParams`."""
    shipped = shipped_bundle("photo")
    params = shipped.world if shipped else WorldParams(name="photo", truncation=0.7)
    world = load_world(params)
    folder = stage_one or (shipped.stage_one if shipped else None)
    if folder is None:
        raise SystemExit("no stage ships with this version: give --stage-one")
    settings = shipped.anonymize if shipped else AnonymizeParams(swap_max_similarity=0.4)
    settings = settings.model_copy(update={"swap_steps": steps})
    if stage_two is None and stage_one is None and shipped and shipped.stage_two.is_dir():
        stage_two = shipped.stage_two
    models = ModelPaths(folder, stage_two)

    def built(method: str, **changes: Any) -> Anonymizer:
        return build(method, world, models, settings.model_copy(update=changes))

    return world, built


def portraits(folder: Path, count: int) -> Tensor:
    """The first pictures of a folder by name, `[N,3,256,256]`."""
    files = sorted(f for f in folder.iterdir() if f.suffix in (".jpg", ".png"))[:count]
    size, area = (SIDE, SIDE), cv2.INTER_AREA
    pixels = [cv2.resize(cv2.imread(str(f))[..., ::-1], size, interpolation=area) for f in files]
    return to_tensor(np.stack(pixels))


def recognizer(file: Path) -> FaceEmbedder:
    """A public recognizer by the world's interface."""
    imported = read_checkpoint(file)
    return embedder(imported.network, build_network(imported))


@torch.no_grad()
def each(network: Callable[[Tensor], Tensor], pictures: Tensor) -> Array:
    """What a network says of every picture, a few at a time."""
    return torch.cat([network(part) for part in pictures.split(8)]).double().numpy()


Output = tuple[Tensor, Tensor, Sequence[Region]]
"""Pictures `[N,3,256,256]`; 1 where the person's pixels are not their own any more, else 0; and of
what is pasted the regions."""


def as_made(_: World, __: Tensor, made: Tensor, before: Array) -> Output:
    """As it was drawn."""
    return made, hulls(before), ()


def fitted(world: World, _: Tensor, made: Tensor, before: Array) -> Output:
    """Warped to the landmarks `before [N,68,2]`."""
    pixels = to_pixels(made)
    points = zip(each(world.landmarks, made), before, strict=True)
    moved = [fit_landmarks(p, *ab)[0] for p, ab in zip(pixels, points, strict=True)]
    return to_tensor(np.stack(moved)), hulls(before), ()


def pasted(world: World, faces: Tensor, made: Tensor, before: Array) -> Output:
    """In the picture, brow to chin, as `deid run` does it."""
    placing, pictures = Placing(world.landmarks, SIDE, False, "face"), to_pixels(faces)
    square, regions = Square(SIDE * WHOLE), []
    for picture, crop, points in zip(pictures, to_pixels(made), before, strict=True):
        face = Geometry(np.array([0, 0, SIDE, SIDE]), square, landmarks=points)
        region = face_region(points, square, picture.shape)
        regions.append(paste_face(picture, bare(crop, face, placing), square, region))
    return to_tensor(pictures), replaced(regions), regions


def with_head(world: World, faces: Tensor, made: Tensor, before: Array) -> Output:
    """The same with forehead and hairline (`--region head`)."""
    placing, pictures = Placing(world.landmarks, SIDE, False, "head"), to_pixels(faces)
    square, regions = Square(SIDE * WHOLE), []
    found = Geometry(SIDE * np.array([0.16, 0.16, 0.84, 0.96]), square)
    for picture, crop in zip(pictures, to_pixels(made), strict=True):
        face = place(picture, [found], [True], placing)[0].geometry
        regions.append(replaced_region(face, "swap", picture.shape))
        paste(picture, fitted_head(crop, face, placing), square, regions[-1], True)
    return to_tensor(pictures), replaced(regions), regions


def with_all(world: World, faces: Tensor, made: Tensor, before: Array) -> Output:
    """With hair and background (`--region portrait`)."""
    square, regions, pictures = Square(SIDE * WHOLE), [], to_pixels(faces)
    for picture, crop, points in zip(pictures, to_pixels(made), before, strict=True):
        regions.append(portrait_region(square, hull_of_landmarks(points), (), picture.shape))
        paste(picture, crop, square, regions[-1], True, around=True)
    return to_tensor(pictures), replaced(regions), ()


def replaced(regions: Sequence[Region]) -> Tensor:
    """1 where most of a pixel is new, `[N,1,256,256]`."""
    new = np.zeros((len(regions), 1, SIDE, SIDE), np.float32)
    for mask, region in zip(new, regions, strict=True):
        x0, y0, x1, y1 = region.window
        mask[0, y0:y1, x0:x1] = region.alpha > 0.5
    return torch.from_numpy(new)


def seams(faces: Tensor, outputs: Tensor, regions: Sequence[Region]) -> Array:
    """ΔE2000 across each edge, above the original's, `[N]`."""
    pictures = zip(to_pixels(faces), to_pixels(outputs), regions, strict=True)
    side = Square(SIDE * WHOLE).side
    return np.array([seam(before, after, region, side) for before, after, region in pictures])


STATES = {
    "made": as_made,
    "fitted": fitted,
    "pasted": pasted,
    "head": with_head,
    "portrait": with_all,
}


def hulls(before: Array) -> Tensor:
    """1 inside each face's hull, 0 outside, `[N,1,256,256]`."""
    masks = []
    for points in before:
        mask = np.zeros((SIDE, SIDE), np.float32)
        cv2.fillConvexPoly(mask, np.rint(hull_of_landmarks(points)).astype(np.int32), 1.0)
        masks.append(mask)
    return torch.from_numpy(np.stack(masks))[:, None]


def identity_figures(
    judges: Mapping[str, FaceEmbedder], faces: Tensor, outputs: Tensor, parts: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Matched and rank-1 of each judge; rank-1 of `parts` too, masks `[N,1,256,256]` by name."""
    figures: dict[str, Any] = {}
    for name, judge in judges.items():
        originals, seen = each(judge, faces), each(judge, outputs)
        _, strangers = pair_similarities(originals, np.arange(len(faces)))
        threshold = float(np.quantile(strangers, 1 - RATE))
        matched = (originals * seen).sum(1) > threshold
        figures[f"matched, {name}"] = interval(matched.astype(float), np.mean)
        whole = (seen @ originals.T).argmax(1) == np.arange(len(faces))
        figures[f"rank-1, {name}"] = interval(whole.astype(float), np.mean)
        for part, inside in parts.items():
            alone = each(judge, outputs * inside)
            alone_found = (alone @ originals.T).argmax(1) == np.arange(len(faces))
            figures[f"rank-1 of {part}, {name}"] = interval(alone_found.astype(float), np.mean)
    return figures


def found(world: World, specs: list[str], outputs: Tensor) -> dict[str, Any]:
    """The share of outputs in which each detector finds a face."""
    pixels = list(to_pixels(outputs))
    detectors = {
        "world": world.detector,
        **{s.split("=")[0]: build_detector([s], world) for s in specs},
    }
    return {
        f"found, {name}": float(np.mean([len(faces) > 0 for faces in detector.detect(pixels)]))
        for name, detector in detectors.items()
    }


def expression_figures(world: World, faces: Tensor, outputs: Tensor) -> dict[str, Any]:
    """Landmarks, pose, mouth and eyes."""
    before, after = (each(world.landmarks, pictures) for pictures in (faces, outputs))
    eyes = np.linalg.norm(before[:, 36] - before[:, 45], axis=1)

    def miss(a: Array, b: Array) -> Array:
        return np.asarray(np.linalg.norm(a - b, axis=2)[:, 17:].mean(1) / eyes)

    figures: dict[str, Any] = {
        "landmarks": interval(miss(before, after), np.median),
        "landmarks of another person": float(np.median(miss(before, np.roll(before, 1, 0)))),
    }
    with torch.no_grad():
        pairs = zip(faces.split(8), outputs.split(8), strict=True)
        distances = torch.cat([world.metric_features.distance(*pair) for pair in pairs])
    figures["distance"] = interval(distances.double().numpy(), np.median)
    mesh = world.contours.network  # type: ignore[union-attr]
    convention = world.contours.convention  # type: ignore[union-attr]
    points = [each(lambda x: mesh(convention(x)), pictures) for pictures in (faces, outputs)]
    turned = [pose(p) for p in points]
    cosine = (np.trace(turned[0].transpose(0, 2, 1) @ turned[1], axis1=1, axis2=2) - 1) / 2
    figures["pose, degrees"] = interval(np.degrees(np.arccos(cosine.clip(-1, 1))), np.median)
    for name, (a, b, *_) in OPENINGS.items():
        spans = [np.linalg.norm(p[:, a] - p[:, b], axis=1) / width(p) for p in points]
        figures[f"{name}, correlation"] = float(np.corrcoef(*spans)[0, 1])
    return figures


OPENINGS = {
    "mouth open": (13, 14),
    "mouth wide": (61, 291),
    "left eye open": (159, 145),
    "right eye open": (386, 374),
}
"""Pairs of Face Mesh's points."""


def width(points: Array) -> Array:
    """Between the outer corners of the eyes, `[N]`."""
    return np.asarray(np.linalg.norm(points[:, 33] - points[:, 263], axis=1))


def pose(points: Array) -> Array:
    """The rotation `[N,3,3]` of a face from Face Mesh's points `[N,468,3]`."""
    across = points[:, 263] - points[:, 33]
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    down = points[:, 152] - points[:, 10]
    out = np.cross(across, down)
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    return np.stack([across, np.cross(out, across), out], axis=2)


def interval(values: Array, statistic: Callable[[Array], Any]) -> tuple[float, float, float]:
    """The statistic, and what 95 % of draws of people with replacement lie between."""
    drawn = np.random.default_rng(0).integers(0, len(values), (DRAWS, len(values)))
    low, high = np.quantile([statistic(values[rows]) for rows in drawn], (0.025, 0.975))
    return float(statistic(values)), float(low), float(high)


if __name__ == "__main__":
    main()
