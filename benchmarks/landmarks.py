"""How well landmarks align photographs: `python -m benchmarks.landmarks PICTURES WEIGHTS`.

PICTURES is a folder of `.jpg`, a face each, WEIGHTS one with `onet.pt`, `det_500m.onnx` and YuNet.
Each face is cut as a detector that errs a little would place it (turned by up to 5°, scaled by 6 %,
shifted by 2 % of the FFHQ square), and each network looks at that crop once. Against SCRFD's five
points: how far the eyes are off, in shares of the distance between them, and the corners of the
FFHQ crop, in shares of its side. YuNet's own points say how far two detectors differ. Only the
second half of the pictures counts, since O-Net's window was chosen on the first.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from deid.faces.alignment import apply_affine, crop_to_picture, five_points, invert_affine
from deid.faces.detection.scrfd import Scrfd
from deid.faces.detection.yunet import Yunet
from deid.faces.faces import Faces
from deid.imaging.align import Square, crop_face
from deid.params import WorldParams
from deid.pixels import Pixels, to_tensor
from deid.weights.importers import build, read_checkpoint
from deid.worlds import load_world
from deid.worlds.public.faces import landmarks
from deid.worlds.world import LandmarkNetwork

SIDE = 256
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
Points = NDArray[np.float64]


def main() -> None:
    """Print a line for each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("weights", type=Path)
    args = parser.parse_args()
    scrfd = Scrfd(args.weights / "det_500m.onnx").find
    yunet = Yunet(args.weights / "face_detection_yunet_2023mar.onnx").find
    faces = [face for path in sorted(args.pictures.glob("*.jpg")) if (face := _face(path, scrfd))]
    faces = faces[len(faces) // 2 :]
    wanted = np.stack([points for _, points in faces])
    found = {
        "YuNet": np.stack([_found(yunet, picture) for picture, _ in faces]),
        "O-Net": _placed(
            faces, landmarks("mtcnn", build(read_checkpoint(args.weights / "onet.pt")))
        ),
        "mini": _placed(faces, load_world(WorldParams()).landmarks),
    }
    print(f"{len(faces)} faces")
    for name, points in found.items():
        eyes, corners = _eyes(points, wanted), _corners(points, wanted)
        print(f"{name}: eyes {eyes.mean():.4f}, corners {corners.mean():.4f}", end="")
        print(f" (95 %: {np.quantile(eyes, 0.95):.4f}, {np.quantile(corners, 0.95):.4f})")


def _face(path: Path, find: Callable[[Pixels], Faces]) -> tuple[Pixels, Points] | None:
    """A picture, with room around it, and its face's five points; None where none is found."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    room = [side // 2 for side in (pixels.shape[0], pixels.shape[0], *[pixels.shape[1]] * 2)]
    picture = np.asarray(cv2.copyMakeBorder(pixels, *room, cv2.BORDER_REPLICATE), np.uint8)
    found = find(picture)
    return (picture, found.points[0].astype(np.float64)) if len(found) else None


def _found(find: Callable[[Pixels], Faces], picture: Pixels) -> Points:
    found = find(picture)
    return found.points[0].astype(np.float64) if len(found) else np.full((5, 2), np.nan)


def _placed(faces: list[tuple[Pixels, Points]], network: LandmarkNetwork) -> Points:
    """`[N,5,2]` of what a network says of crops that are a little off."""
    random, placed = np.random.default_rng(0), []
    for picture, points in faces:
        angle, scale = random.uniform(-0.09, 0.09), random.uniform(0.94, 1.06)
        shift = random.uniform(-0.02, 0.02, 2) * Square(points).side
        cos, sin = scale * np.cos(angle), scale * np.sin(angle)
        center = points.mean(0)
        near = Square((points - center) @ np.array([[cos, sin], [-sin, cos]]) + center + shift)
        with torch.no_grad():
            marks = network(to_tensor(crop_face(picture, near, SIDE)))[0].double().numpy()
        placed.append(apply_affine(near.to_picture(SIDE), five_points(marks)))
    return np.stack(placed)


def _eyes(found: Points, wanted: Points) -> Points:
    apart = np.linalg.norm(wanted[:, 0] - wanted[:, 1], axis=1)
    miss = np.linalg.norm(found - wanted, axis=2)[:, :2].mean(1)
    return np.asarray(miss / apart)[np.isfinite(miss)]


def _corners(found: Points, wanted: Points) -> Points:
    """In the frame of the wanted crop, whose side is 1."""
    frames = invert_affine(crop_to_picture(wanted, 1))
    places = apply_affine(frames, apply_affine(crop_to_picture(found, 1), CORNERS))
    miss = np.linalg.norm(places - CORNERS, axis=2).mean(1)
    return np.asarray(miss)[np.isfinite(miss)]


if __name__ == "__main__":
    main()
