"""What must hold of the mini world's pictures and of the truth that comes with them."""

import numpy as np
import pytest
import torch
from torch import Tensor

from deid.faces.alignment import ffhq_square, five_points
from deid.worlds.mini.render.parameters import (
    GROUPS,
    NAMES,
    PARAMETERS,
    identity_views,
    random_parameters,
    sample_parameters,
)
from deid.worlds.mini.render.renderer import render
from deid.worlds.mini.render.scenes import render_person, render_scene


def people(count: int, seed: int = 7) -> Tensor:
    return torch.from_numpy(random_parameters(range(count), seed))


def calm(**values: float) -> Tensor:
    """One average person with some parameters set."""
    row = torch.zeros(1, PARAMETERS)
    row[:, NAMES.index("glasses")] = row[:, NAMES.index("beard")] = -3.0
    for name, value in values.items():
        row[:, NAMES.index(name)] = value
    return row


def test_groups_cover_every_parameter_once() -> None:
    covered = [i for group in GROUPS.values() for i in range(PARAMETERS)[group]]
    assert covered == list(range(PARAMETERS))
    assert set(GROUPS) == {"identity", "expression", "pose", "light", "background"}


def test_sampling_depends_on_index_and_seed_only() -> None:
    together = random_parameters([3, 1, 4], seed=2)
    np.testing.assert_array_equal(together[1], random_parameters([1], seed=2)[0])
    assert not np.array_equal(together[1], random_parameters([1], seed=3)[0])
    views = identity_views([5, 9], 3, seed=2)
    np.testing.assert_array_equal(views[4], sample_parameters(9, 1, seed=2))


def test_views_share_the_identity_and_nothing_else() -> None:
    views = identity_views([5, 9], 3, seed=2).reshape(2, 3, PARAMETERS)
    group = GROUPS["identity"]
    assert (views[:, :, group] == views[:, :1, group]).all()
    assert (views[0, 0, group] != views[1, 0, group]).all()
    assert (views[:, 0, group.stop :] != views[:, 1, group.stop :]).all()


def test_parameters_are_standard_normal() -> None:
    rows = random_parameters(range(400), seed=1)
    assert abs(rows.mean()) < 0.02
    assert abs(rows.std() - 1) < 0.02


def test_same_parameters_give_the_same_bytes_alone_or_in_a_batch() -> None:
    rows = people(11)
    batch = render(rows)
    for i in (0, 7, 10):
        alone = render(rows[i : i + 1])
        assert torch.equal(alone.images[0], batch.images[i])
        assert torch.equal(alone.landmarks[0], batch.landmarks[i])


def test_form_and_range() -> None:
    result = render(people(3), size=48)
    assert result.images.shape == (3, 3, 48, 48)
    assert result.landmarks.shape == (3, 68, 2)
    assert result.images.dtype == torch.float32
    assert result.images.isfinite().all()
    assert result.images.abs().max() <= 1
    assert result.alpha.min() >= 0
    assert result.alpha.max() <= 1
    assert render(people(3)[:0]).images.shape == (0, 3, 64, 64)


def test_wrong_number_of_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="expected parameters"):
        render(torch.zeros(2, PARAMETERS + 1))


def test_pictures_of_any_size_show_the_same() -> None:
    rows = people(8)
    small, large = render(rows, 64), render(rows, 128)
    shrunk = torch.nn.functional.avg_pool2d(large.images, 2)
    assert (shrunk - small.images).abs().mean() < 0.03
    torch.testing.assert_close(large.landmarks, small.landmarks * 2)


def test_landmarks_are_in_order_and_in_the_picture() -> None:
    points = render(people(200)).landmarks
    x, y = points.unbind(-1)
    inner = points[:, 17:]
    assert inner.min() > 0
    assert inner.max() < 64
    assert (x[:, 36:42].mean(1) < x[:, 42:48].mean(1) - 8).all()
    assert (x[:, 48] < x[:, 54]).all()
    assert (x[:, 0] < x[:, 8]).all()
    assert (x[:, 8] < x[:, 16]).all()
    assert (y[:, 17:27].mean(1) < y[:, 36:48].mean(1)).all()
    assert (y[:, 36:48].mean(1) < y[:, 30]).all()
    assert (y[:, 30] < y[:, 57]).all()
    assert (y[:, 57] < y[:, 8]).all()


def test_faces_are_where_ffhq_puts_them() -> None:
    points = render(people(50)).landmarks.double().numpy()
    center, axis = ffhq_square(five_points(points))
    np.testing.assert_allclose(center, 32.0, atol=1e-3)
    np.testing.assert_allclose(axis, np.broadcast_to([32.0, 0.0], axis.shape), atol=1e-3)


def test_opening_the_mouth_darkens_its_inside_and_moves_the_lower_lip() -> None:
    shut, wide = render(calm(mouth_open=-2, smile=-1)), render(calm(mouth_open=3, smile=-1))
    gap = wide.landmarks[0, 66, 1] - wide.landmarks[0, 62, 1]
    assert gap > 4
    assert shut.landmarks[0, 66, 1] - shut.landmarks[0, 62, 1] < 0.5
    x, y = (wide.landmarks[0, 62] * 0.4 + wide.landmarks[0, 66] * 0.6).floor().int().tolist()
    assert wide.images[0, :, y, x].mean() < shut.images[0, :, y, x].mean() - 0.2


def test_a_smile_lifts_the_corners_of_the_mouth() -> None:
    def lift(smile: float) -> float:
        y = render(calm(smile=smile)).landmarks[0, :, 1]
        return float(y[62] - (y[48] + y[54]) / 2)

    assert lift(1.5) > lift(0.0) > lift(-1.5)
    assert lift(1.5) - lift(-1.5) > 3


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [("mouth_open", 48, 68), ("smile", 48, 68), ("brow_raise", 17, 27), ("eye_open", 36, 48)],
)
def test_expression_moves_its_landmarks_and_its_pixels(name: str, first: int, last: int) -> None:
    low, high = render(calm(**{name: -2.0})), render(calm(**{name: 2.0}))
    assert (low.landmarks - high.landmarks)[0, first:last].norm(dim=1).max() > 0.8
    x0, y0 = low.landmarks[0, first:last].amin(0).floor().int().tolist()
    x1, y1 = low.landmarks[0, first:last].amax(0).ceil().int().tolist()
    change = (low.images - high.images)[0, :, y0 - 2 : y1 + 2, x0 - 1 : x1 + 1].abs()
    assert change.mean() > 0.06


def test_gaze_moves_the_iris_but_no_landmark() -> None:
    left, right = render(calm(gaze_x=-2)), render(calm(gaze_x=2))
    torch.testing.assert_close(left.landmarks, right.landmarks)
    x0, y0 = left.landmarks[0, 36:40].amin(0).floor().int().tolist()
    x1, y1 = left.landmarks[0, 36:42].amax(0).ceil().int().tolist()
    patch = (right.images - left.images)[0, :, y0:y1, x0:x1].mean(dim=(0, 1))
    half = len(patch) // 2
    assert patch[:half].mean() > 0.05  # the white shows where the iris has left
    assert patch[-half:].mean() < -0.05


def test_glasses_and_beard_do_not_move_landmarks() -> None:
    bare, hidden = render(calm(sex=2)), render(calm(sex=2, glasses=3, beard=3))
    torch.testing.assert_close(bare.landmarks, hidden.landmarks)
    assert (bare.images - hidden.images).abs().mean() > 0.02


def test_pictures_change_smoothly_with_the_parameters() -> None:
    rows = people(16)
    step = 0.02 * torch.from_numpy(random_parameters(range(16), 8))
    change = (render(rows + step).images - render(rows).images).abs()
    assert change.mean() < 0.02
    assert change.flatten(1).mean(1).max() < 0.06


def test_a_portrait_is_cut_out_by_its_matte() -> None:
    portrait = render_person(people(1)[0], 96)
    assert portrait.rgb.shape == (3, 96, 96)
    x, y = portrait.landmarks.astype(int).T
    assert portrait.alpha[y[17:], x[17:]].min() > 0.9
    assert portrait.alpha[0, 0] < 0.01


@pytest.mark.parametrize("count", [0, 1, 3])
def test_boxes_of_a_scene_contain_its_landmarks(count: int) -> None:
    for seed in range(4):
        scene = render_scene(seed, count, (120, 160))
        assert scene.pixels.shape == (120, 160, 3)
        assert scene.boxes.shape == (count, 4)
        for box, points in zip(scene.boxes, scene.landmarks, strict=True):
            assert (points >= box[:2]).all()
            assert (points <= box[2:]).all()
            assert ((points > 0) & (points < [160, 120])).all()


def test_scenes_are_determined_by_their_seed() -> None:
    first, again = (render_scene(4, 2, (96, 128)).pixels for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, render_scene(5, 2, (96, 128)).pixels)
