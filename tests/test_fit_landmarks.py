"""A drawn face takes the pose and expression of its place, and never looks distorted."""

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from deid.faces.alignment import INNER, Points
from deid.imaging.fit_landmarks import MOST, fit_landmarks
from deid.pixels import Pixels
from tests.test_region import SIDE, landmarks

EYES = float(np.linalg.norm(landmarks()[36] - landmarks()[45]))


def dotted(points: Points) -> Pixels:
    """A dot at each mouth corner and each outer corner of the eyes."""
    crop = np.zeros((SIDE, SIDE, 3), np.uint8)
    for channel, which in enumerate(((36, 45), (48,), (54,))):
        for x, y in points[list(which)]:
            plane = np.zeros((SIDE, SIDE), np.float32)
            plane[round(y - 0.5), round(x - 0.5)] = 1.0
            blurred = cv2.GaussianBlur(plane, (0, 0), 2.0)
            crop[..., channel] = np.maximum(crop[..., channel], 255 * blurred / blurred.max())
    return crop


def moved(points: Points, turn: float, scale: float, shift: tuple[float, float]) -> Points:
    middle = points[INNER].mean(axis=0)
    cos, sin = scale * np.cos(turn), scale * np.sin(turn)
    return (points - middle) @ np.array([[cos, sin], [-sin, cos]]) + middle + shift


@settings(max_examples=20)
@given(
    turn=st.floats(-0.3, 0.3),
    scale=st.floats(0.8, 1.25),
    across=st.floats(-12, 12),
    down=st.floats(-12, 12),
)
def test_a_face_is_turned_scaled_and_shifted_to_its_place(
    turn: float, scale: float, across: float, down: float
) -> None:
    before = landmarks()
    wanted = moved(before, turn, scale, (across, down))
    out, now = fit_landmarks(dotted(before), before, wanted)
    assert np.abs(now - wanted).max() < 0.5
    for channel, corner in ((1, 48), (2, 54)):
        y, x = np.unravel_index(out[..., channel].argmax(), out.shape[:2])
        assert np.hypot(x + 0.5 - wanted[corner, 0], y + 0.5 - wanted[corner, 1]) < 2.5


def test_a_smile_is_followed_in_pixels_and_landmarks_alike() -> None:
    before, wanted = landmarks(), landmarks()
    across = (wanted[48:, 0] - wanted[48:, 0].mean()) / (0.1 * SIDE)
    wanted[48:] += 0.06 * EYES * np.stack([across, -across * across], -1)
    out, now = fit_landmarks(dotted(before), before, wanted)
    for channel, corner in ((1, 48), (2, 54)):
        y, x = np.unravel_index(out[..., channel].argmax(), out.shape[:2])
        assert np.hypot(x + 0.5 - now[corner, 0], y + 0.5 - now[corner, 1]) < 1.5
        assert now[corner, 1] < before[corner, 1] - 0.02 * EYES


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), noise=st.floats(0.0, 0.3))
def test_no_landmark_goes_far_beside_the_pose_and_nothing_folds(seed: int, noise: float) -> None:
    """Whatever landmarks are asked for."""
    before = landmarks()
    wanted = before + np.random.default_rng(seed).normal(0, noise * EYES, before.shape)
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    ramp = np.stack([x, y, x], axis=-1).astype(np.uint8)
    out, now = fit_landmarks(ramp, before, wanted)
    assert np.isfinite(now).all()
    inner = np.s_[SIDE // 4 : -SIDE // 4, SIDE // 4 : -SIDE // 4]
    smooth = cv2.GaussianBlur(out.astype(np.float32), (0, 0), 3.0)
    across, down = np.gradient(smooth[..., 0], axis=1), np.gradient(smooth[..., 1], axis=0)
    assert across[inner].min() > 0
    assert down[inner].min() > 0
    assert MOST <= 0.2


def test_a_shut_mouth_is_not_pulled_open() -> None:
    """Its lips would be stretched to tongues."""
    before, wanted = landmarks(), landmarks()
    wanted[61:64, 1] -= 0.15 * EYES
    wanted[65:68, 1] += 0.25 * EYES
    wanted[55:60, 1] += 0.25 * EYES
    _, now = fit_landmarks(dotted(before), before, wanted)
    opened = (now[66, 1] - now[62, 1]) - (before[66, 1] - before[62, 1])
    assert opened < 0.2 * EYES
