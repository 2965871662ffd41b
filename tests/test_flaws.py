"""Flaws of a drawn face that a stranger sees at once, and donors who are chosen without them."""

from dataclasses import replace
from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deid.anonymize.swap import Swap
from deid.imaging.flaws import FRINGE, MAYBE, SURELY, bridge, fringe
from deid.pixels import Pixels, to_tensor
from deid.worlds.donors import DonorBank
from tests.test_region import SIDE, landmarks, portrait
from tests.toy import toy_world


def with_glasses(face: Pixels) -> Pixels:
    out = face.copy()
    for eye in (slice(36, 42), slice(42, 48)):
        x, y = np.rint(landmarks()[eye].mean(axis=0)).astype(int)
        cv2.ellipse(out, (x, y), (24, 16), 0, 0, 360, (20, 20, 20), 3, cv2.LINE_AA)
    (x0, y), (x1, _) = (np.rint(landmarks()[i]).astype(int) for i in (39, 42))
    cv2.line(out, (x0, y), (x1, y), (20, 20, 20), 4, cv2.LINE_AA)
    return out


def with_fringe(face: Pixels) -> Pixels:
    out = face.copy()
    cv2.rectangle(
        out, (int(0.25 * SIDE), 0), (int(0.75 * SIDE), int(0.38 * SIDE)), (60, 40, 30), -1
    )
    return out


@pytest.mark.parametrize("turn", [0.0, 12.0, -25.0])
@pytest.mark.parametrize("size", [96, SIDE, 400])
def test_glasses_and_a_fringe_are_seen(turn: float, size: int) -> None:
    """However large a face is and however its head is held."""
    affine = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), turn, 1.0)
    affine = np.diag([size / SIDE] * 2) @ affine
    points = landmarks() @ affine[:, :2].T + affine[:, 2]

    def seen(face: Pixels) -> Pixels:
        out = cv2.warpAffine(face, affine, (size, size), borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(out, np.uint8)

    plain = portrait()
    assert bridge(seen(plain), points) < MAYBE
    assert fringe(seen(plain), points) < FRINGE
    assert bridge(seen(with_glasses(plain)), points) > SURELY
    assert fringe(seen(with_fringe(plain)), points) > FRINGE


def test_a_face_that_is_one_color_has_no_flaw_and_breaks_nothing() -> None:
    for value in (0, 255):
        flat = np.full((64, 64, 3), value, np.uint8)
        assert bridge(flat, landmarks() * 64 / SIDE) == 0
        assert fringe(flat, landmarks() * 64 / SIDE) == 0


class _Model:
    """Draws for each donor the picture that its code numbers."""

    def __init__(self, pictures: list[Pixels]) -> None:
        self.pictures = pictures

    def expression(self, faces: Tensor) -> Tensor:
        return faces

    def latent_from(self, codes: Tensor, _: Tensor) -> Tensor:
        return codes

    latent_of = latent_from

    def synthesize(self, w: Tensor, side: int) -> Tensor:
        drawn = to_tensor(np.stack([self.pictures[int(code.argmax())] for code in w]))
        return F.interpolate(drawn, (side, side), mode="bilinear", antialias=True)


@pytest.mark.parametrize("wears", [False, True])
def test_donors_have_no_fringe_and_glasses_only_where_the_person_has(wears: bool) -> None:
    plain = portrait()
    person = with_glasses(plain) if wears else plain
    pictures = [with_fringe(plain), with_glasses(plain), plain, with_fringe(with_glasses(plain))]
    bank = DonorBank(torch.eye(4, 8), torch.zeros(4, 3))
    points = torch.from_numpy(landmarks()).float()
    parts: dict[str, Any] = {
        "identity": lambda images: torch.ones(len(images), 8) / 8**0.5,
        "looks": lambda images: torch.zeros(len(images), 3),
        "landmarks": lambda images: (points * images.shape[-1] / SIDE).expand(len(images), 68, 2),
    }
    world = replace(toy_world(), donors=bank, **parts)
    swap = Swap(world, cast(Any, _Model(pictures)), 0.9, 1)
    face, wanted = to_tensor(person), to_tensor(pictures[1] if wears else plain)
    for seed in range(6):
        assert (swap(face, [seed]) - wanted).abs().mean() < 0.01


def test_a_donor_who_is_drawn_unlike_the_person_is_passed_over() -> None:
    """The bank calls all four alike; two are drawn as somebody of another age."""
    dark = (portrait() * 0.5).astype(np.uint8)
    bank = DonorBank(torch.eye(4, 8), torch.zeros(4, 3))
    points = torch.from_numpy(landmarks()).float()
    parts: dict[str, Any] = {
        "identity": lambda images: torch.ones(len(images), 8) / 8**0.5,
        "looks": lambda images: 10.0 * images.mean((2, 3)),
        "landmarks": lambda images: (points * images.shape[-1] / SIDE).expand(len(images), 68, 2),
    }
    world = replace(toy_world(), donors=bank, **parts)
    swap = Swap(world, cast(Any, _Model([dark, portrait(), dark, portrait()])), 0.9, 1)
    face = to_tensor(portrait())
    for seed in range(6):
        assert (swap(face, [seed]) - face).abs().mean() < 0.01
