"""A made face fills the outline of the old one; a face is placed where landmarks agree it is."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from deid.faces.alignment import Points, five_points
from deid.gate.anonymize import fitted
from deid.gate.geometry import Geometry
from deid.gate.place import Placing, place
from deid.imaging.align import Square
from deid.imaging.fit import fit_outline, outline_of_landmarks
from deid.imaging.paste import hull_of_points
from deid.pixels import Pixels, to_tensor
from deid.worlds.mini.render.scenes import Scene, render_scene
from deid.worlds.world import World

SKIN, BEHIND = 200, 20


@pytest.fixture(scope="module")
def people(world: World) -> Pixels:
    """Aligned crops of 12 people."""
    return world.test_faces(12, 1, 5).pixels


@pytest.fixture(scope="module")
def seen(world: World, people: Pixels) -> Points:
    """Their landmarks, `[12,68,2]`."""
    with torch.inference_mode():
        return world.landmarks(to_tensor(people)).double().numpy()


def within(outline: Points, side: int, factor: int = 1) -> NDArray[np.bool_]:
    """The pixels inside a closed outline, drawn `factor` times as large."""
    inside = np.zeros((side * factor, side * factor), np.uint8)
    cv2.fillPoly(inside, [np.rint(outline * factor * 16).astype(np.int32)], 1, shift=4)
    return inside > 0


@settings(max_examples=30)
@given(
    who=st.integers(0, 11),
    across=st.floats(0.8, 1.25),
    down=st.floats(0.85, 1.2),
    turn=st.floats(-0.2, 0.2),
)
def test_the_face_fills_the_outline_and_keeps_its_features(
    seen: Points, who: int, across: float, down: float, turn: float
) -> None:
    """Whether it was narrower or wider, and however it is turned: nothing behind it shows."""
    landmarks = seen[who]
    middle = five_points(landmarks).mean(axis=0)
    cos, sin = np.cos(turn), np.sin(turn)
    change = np.array([[cos, -sin], [sin, cos]]) @ np.diag([across, down])
    wanted = middle + (outline_of_landmarks(landmarks) - middle) @ change.T
    face = within(outline_of_landmarks(landmarks), 64, 4)
    crop = np.where(face, SKIN, BEHIND).astype(np.uint8)
    spots = np.zeros_like(crop)
    for x, y in five_points(landmarks) * 4:
        cv2.circle(spots, (round(x), round(y)), 4, 255, -1)
    made = np.stack([crop, spots, crop], axis=-1)
    out = fit_outline(made, landmarks * 4, wanted * 4)
    inner = within(middle + 0.94 * (wanted - middle), 64, 4)
    assert (out[inner, 0] > 0.9 * SKIN).mean() > 0.995
    for x, y in five_points(landmarks):
        near = out[int(4 * y) - 24 : int(4 * y) + 24, int(4 * x) - 24 : int(4 * x) + 24, 1]
        assert near.max() > 200, "a feature went more than a tenth of the square"


def test_a_face_that_fits_already_hardly_changes(people: Pixels, seen: Points) -> None:
    for crop, landmarks in zip(people, seen, strict=True):
        out = fit_outline(crop, landmarks, outline_of_landmarks(landmarks))
        small = cv2.resize(out, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float32)
        inner = within(hull_of_points(Square(five_points(landmarks))), 64)
        assert np.abs(small - crop)[inner].mean() < 8.0


@pytest.fixture(scope="module")
def scene() -> Scene:
    return render_scene(41, 2, (256, 352))


def displaced(scene: Scene, share: float) -> tuple[list[Geometry], list[Points]]:
    """Faces whose detected points lie beside the true ones by a share of the square's side."""
    faces, truths = [], []
    for box, landmarks in zip(scene.boxes, scene.landmarks, strict=True):
        truth = five_points(landmarks.astype(np.float64))
        beside = truth + share * Square(truth).side * np.array([0.8, -0.6])
        faces.append(Geometry(box, Square(beside)))
        truths.append(truth)
    return faces, truths


def placed(scene: Scene, faces: list[Geometry], placing: Placing) -> list[Geometry]:
    drawn = [True] * len(faces)
    return [one.geometry for one in place(scene.pixels, faces, drawn, placing)]


def missed_by(face: Geometry, truth: Points) -> float:
    return float(np.linalg.norm(face.square.points - truth, axis=-1).mean()) / Square(truth).side


@pytest.mark.parametrize("share", [0.0, 0.08, 0.15])
def test_a_face_is_placed_by_its_landmarks_where_the_detectors_points_are_poor(
    world: World, scene: Scene, share: float
) -> None:
    faces, truths = displaced(scene, share)
    faces = placed(scene, faces, Placing(world.landmarks, world.resolution, refine=True))
    for face, truth in zip(faces, truths, strict=True):
        assert face.outline is not None
        assert missed_by(face, truth) < 0.03


def nonsense(images: Tensor) -> Tensor:
    """Landmarks that have nothing to do with the crop, other ones each time."""
    return torch.rand(len(images), 68, 2) * images.shape[-1]


def wandering(world: World) -> Callable[[Tensor], Tensor]:
    """Landmarks always a little beside the last place: near enough at each look, never agreeing."""
    return lambda images: world.landmarks(images) + 0.15 * images.shape[-1]


@pytest.mark.parametrize("kind", ["nonsense", "wandering"])
def test_landmarks_that_do_not_agree_with_themselves_move_nothing(
    world: World, scene: Scene, kind: str
) -> None:
    """The detector's points stand, with an ellipse about them; a made face stays as it is."""
    network = nonsense if kind == "nonsense" else wandering(world)
    faces, _ = displaced(scene, 0.05)
    detected = [face.square.points.copy() for face in faces]
    placing = Placing(network, world.resolution, refine=True)
    faces = placed(scene, faces, placing)
    made = np.full((64, 64, 3), 90, np.uint8)
    for face, points in zip(faces, detected, strict=True):
        assert np.array_equal(face.square.points, points)
        assert face.hull is not None
        assert np.allclose(face.hull, hull_of_points(Square(points)))
        assert fitted(made, face, placing) is made


def test_a_made_face_whose_landmarks_are_nonsense_stays_as_it_is(
    world: World, scene: Scene
) -> None:
    faces, _ = displaced(scene, 0.0)
    faces = placed(scene, faces, Placing(world.landmarks, world.resolution, refine=True))
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    blind = Placing(nonsense, world.resolution, refine=True)
    assert all(fitted(noise, face, blind) is noise for face in faces)
