"""New heads look where the person looks: what turns one, and who is asked to."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deid.anonymize import build, build_swap
from deid.anonymize.swap import Swap
from deid.batch.bundle import Origin
from deid.batch.pipeline import build_pipeline
from deid.batch.settings import RunSettings
from deid.errors import DeidError
from deid.faces.alignment import INNER, Points
from deid.faces.head_turn import DEPTH, angle, head_turn, straight
from deid.model import Deidentifier
from deid.params import AnonymizeParams
from deid.pixels import to_tensor
from deid.secret import SecretKey
from deid.worlds.cards import read_verified
from deid.worlds.donors import DonorBank
from deid.worlds.head_turns import MOST, HeadTurns
from deid.worlds.photo.generator import OURS
from tests.test_fit_landmarks import EYES, moved
from tests.test_region import SIDE, landmarks
from tests.toy import toy_world
from tests.toy_model import save_toy_model

WORLD = toy_world()


def rotated(yaw: float, pitch: float) -> Points:
    """The plain face, of usual depth, seen after it turned by these angles."""
    flat = landmarks() - landmarks()[30]
    space = np.column_stack([flat, DEPTH * EYES])
    cos, sin, up, over = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    aside = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    nod = np.array([[1, 0, 0], [0, up, over], [0, -over, up]])
    return np.asarray((space @ (nod @ aside).T)[:, :2] + landmarks()[30])


@pytest.mark.parametrize(("yaw", "pitch"), [(0.3, 0.0), (-0.5, 0.0), (0.0, 0.2), (0.2, -0.2)])
def test_a_head_of_usual_depth_turns_by_the_sine_of_its_angle(yaw: float, pitch: float) -> None:
    turn = head_turn(landmarks(), rotated(yaw, pitch)) / EYES
    assert turn == pytest.approx(np.sin([yaw, pitch]), abs=0.06)


def test_what_shifts_rotates_or_scales_a_face_turns_no_head() -> None:
    wanted = moved(landmarks(), 0.2, 1.2, (9.0, -5.0))
    assert np.abs(head_turn(landmarks(), wanted)).max() < 1e-6 * EYES


def test_turns_are_learned_from_faces_and_lead_where_another_looks() -> None:
    """Of faces whose landmarks follow w by a straight map, in which other components move them
    otherwise."""
    random = np.random.default_rng(0)
    w = random.normal(size=(400, 8))
    moves = np.stack([rotated(0.2, 0.0), rotated(0.0, 0.2)]) - landmarks()
    moves -= moves[:, INNER].mean(axis=1, keepdims=True)  # faces are aligned
    other = random.normal(scale=0.003 * SIDE, size=(6, 68, 2))
    seen = (landmarks() + np.tensordot(w, np.concatenate([moves, other]), 1)) / SIDE
    turns = HeadTurns.fitted(torch.from_numpy(w).float(), seen)

    mine = torch.from_numpy(w[:20]).float()
    now = turns.turned(mine, seen[:20], seen[20:40]).double().numpy()
    after = (landmarks() + np.tensordot(now, np.concatenate([moves, other]), 1)) / SIDE

    def left(points: Points) -> float:
        pairs = zip(points, seen[20:40], strict=True)
        return float(np.mean([np.linalg.norm(head_turn(*pair)) for pair in pairs]))

    assert left(after) < 0.25 * left(seen[:20])


def test_who_looks_ahead_is_turned_by_nothing_and_others_by_their_angle() -> None:
    ahead = straight(landmarks())
    np.testing.assert_allclose(ahead, landmarks(), atol=0.02 * SIDE)  # it is symmetric already
    turns = HeadTurns(torch.zeros(2, 4), torch.from_numpy(ahead / SIDE))
    turned = ((0.0, 0.0), (0.3, 0.0), (0.6, 0.0), (-0.9, 0.0), (0.0, -0.3))
    seen = np.stack([rotated(*by) / SIDE for by in turned])
    wanted = np.degrees(np.abs(turned).max(axis=1))
    assert turns.angles(seen) == pytest.approx(wanted, abs=6.0)
    back = [angle(one, ahead / SIDE) for one in seen]
    assert back == pytest.approx(turns.angles(seen), abs=8.0)


def test_no_turn_is_believed_beyond_a_bound() -> None:
    turns = HeadTurns(torch.eye(2, 4), torch.zeros(68, 2))
    near, far = landmarks() / SIDE, landmarks() / SIDE
    far[:, 0] += 9.0 * DEPTH
    assert turns.turned(torch.zeros(1, 4), near[None], far[None]).abs().max() <= MOST


class OneFurther(HeadTurns):
    """Goes one along the first component of w, and says of which landmarks it was told."""

    def __init__(self) -> None:
        super().__init__(torch.zeros(2, 16), torch.zeros(68, 2))
        self.told: list[tuple[Points, Points]] = []
        self.away = np.zeros(2)

    def angles(self, landmarks: Points) -> np.ndarray:
        return self.away

    def turned(self, w: torch.Tensor, landmarks: Points, wanted: Points) -> torch.Tensor:
        self.told.append((landmarks, wanted))
        return w + torch.eye(16)[0]


def test_a_swap_draws_the_head_turned_where_the_world_knows_how(tmp_path: Path) -> None:
    models = save_toy_model(tmp_path)
    turns = OneFurther()
    world = replace(WORLD, turns=turns)
    model = Deidentifier.load(models.stage_one, None, world)
    faces = to_tensor(WORLD.test_faces(2, 1, 3).pixels)
    plain = Swap(world, model, 1.0, 1)
    donors = world.identity(plain.donors(faces, [0, 1]))
    w = model.latent_of(donors, faces)
    assert torch.equal(plain.given(donors, faces), model.synthesize(w).clamp(-1.0, 1.0))
    assert not turns.told

    head = replace(plain, keep=("sex", "pose"))
    expected = model.synthesize(w + torch.eye(16)[0]).clamp(-1.0, 1.0)
    torch.testing.assert_close(head.given(donors, faces), expected)
    ((before, wanted),) = turns.told
    drawn = plain.given(donors, faces)
    np.testing.assert_allclose(wanted, WORLD.landmarks(faces).double().numpy() / 64)
    np.testing.assert_allclose(before, WORLD.landmarks(drawn).double().numpy() / 64, atol=0.02)

    turns.away = np.array([25.0, 5.0])  # without being asked, who looks far from ahead
    far = plain.given(donors, faces)
    torch.testing.assert_close(far[:1], expected[:1])
    torch.testing.assert_close(far[1:], drawn[1:])

    unknown = replace(head, world=WORLD)
    torch.testing.assert_close(unknown.given(donors, faces), drawn)


def test_a_pose_is_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    models, world = save_toy_model(tmp_path), replace(WORLD, turns=OneFurther())
    for text, kept in (("pose,gender", ("sex", "pose")), ("pose", ("pose",))):
        built = build_pipeline(RunSettings(keep_attributes=text), world, models)
        swaps = [built.components.anonymizers[level] for level in ("swap", "swap+1", "swap+3")]
        assert {swap.inner.keep for swap in swaps} == {kept}  # type: ignore[attr-defined]
    with pytest.raises(DeidError, match="toy does not know how heads turn"):
        build_pipeline(RunSettings(keep_attributes="pose"), WORLD, models)


def test_who_keeps_the_pose_alone_gets_any_stranger(tmp_path: Path) -> None:
    codes = torch.eye(6, WORLD.identity.dim)
    bank, looks = DonorBank(codes, torch.zeros(6, 5)), lambda faces: torch.zeros(len(faces), 5)
    world = replace(WORLD, donors=bank, looks=looks, turns=OneFurther())
    models = save_toy_model(tmp_path)
    for keep, banked in ((("pose",), False), (("sex", "pose"), True)):
        settings = AnonymizeParams(swap_keep=keep)
        assert (build_swap(world, models, settings).bank is not None) is banked
    with pytest.raises(DeidError, match="donor-pool"):
        build_swap(world, models, AnonymizeParams(swap_keep=("pose",), swap_pool=4))


@pytest.mark.parametrize("companion", ["donors_sha256", "turns_sha256", "shifts_sha256"])
def test_outputs_name_what_drew_them_beside_the_stages(tmp_path: Path, companion: str) -> None:
    """Also those of a registered version, which it is no part of."""
    models, told = save_toy_model(tmp_path), set()
    for sha256 in ("0" * 64, "1" * 64):
        world = replace(WORLD, **{companion: sha256})  # type: ignore[arg-type]
        built = build_pipeline(RunSettings(), world, models)
        told |= {built.fingerprint, replace(built, origin=Origin(version="3")).fingerprint}
    assert len(told) == 4


def test_a_key_leaves_the_pose_to_be_kept(tmp_path: Path) -> None:
    models, world = save_toy_model(tmp_path), replace(WORLD, turns=OneFurther())
    for keep in (("pose",), ("sex", "pose")):
        settings = AnonymizeParams(swap_keep=keep)
        built: Any = build("swap", world, models, settings, SecretKey(b"k" * 32))
        assert built.inner.keep == ("pose",), "no bank has looks here"


def test_the_shipped_turns_are_those_of_their_card() -> None:
    state, _ = read_verified(OURS, "turns")
    assert HeadTurns(**state).directions.shape == (2, 512)
    assert np.abs(straight(state["ahead"].numpy()) - state["ahead"].numpy()).max() < 1e-4
    assert torch.isfinite(state["directions"]).all()
