"""The photo world behind the seam: shapes, gradients, frozen parts, and what it refuses.

Its public files are not in git; where the store lacks them, the tests that need them are skipped.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deid.errors import DeidError
from deid.imaging.scene import compose
from deid.latents.sample import sample_from
from deid.nets.mobile_stylegan import MobileStyleGAN, MobileSynthesis, StyleMapping
from deid.params import SampleParams, WorldParams
from deid.pixels import to_tensor
from deid.seeds import torch_generator
from deid.weights.catalog import needs, with_parts
from deid.weights.store import Store, default_store
from deid.worlds.photo.faces import LIDS, LIPS, OPENINGS, MeshPoints
from deid.worlds.photo.pretrain.heads import HELD_OUT, Examples, _Head, fit_heads, haar
from deid.worlds.photo.world import load_photo_world
from deid.worlds.world import LooksOfIdentity, World
from tests.openvino_files import small_generator
from tests.toy import toy_world

PARAMS = WorldParams(name="photo", resolution=128, truncation=0.7)


@cache
def photo_world() -> World:
    store = default_store()
    files = with_parts([name for names in needs("photo").values() for name in names])
    missing = [entry.file for entry in files if not store.path(entry).is_file()]
    if missing:
        pytest.skip(f"not in the store: {missing[0]}; `deid weights fetch --world photo` brings it")
    return load_photo_world(PARAMS)


def drawn(world: World, count: int = 2) -> Tensor:
    return to_tensor(world.test_faces(count, 1, 3).pixels)


def test_a_group_scene_keeps_each_face_as_it_was_drawn() -> None:
    random = np.random.default_rng(0)
    large, small = (random.integers(0, 256, (n, n, 3), np.uint8) for n in (192, 128))
    scene = compose([large, small])
    assert scene.shape == (192, round(192 * 0.84) + 128, 3)
    np.testing.assert_array_equal(scene[40:180, 50:140], large[40:180, 50:140])
    left, top = round(192 * 0.84), 192 - 128
    inner = scene[top + 30 : 180, left + 40 : left + 90]
    np.testing.assert_array_equal(inner, small[30 : 180 - top, 40:90])


def test_its_networks_keep_the_worlds_protocols() -> None:
    world = photo_world()
    faces = drawn(world)
    assert faces.shape == (2, 3, 128, 128)
    for recognizer in (world.identity, *world.held_out.values()):
        codes = recognizer(faces)
        assert codes.shape == (2, recognizer.dim)
        torch.testing.assert_close(codes.norm(dim=1), torch.ones(2))
    assert world.expression_trunk(faces).shape == (2, world.expression_dim)
    assert world.contours is not None
    assert world.contours(faces).shape == (2, len(LIPS) + len(LIDS), 2)
    for features in (world.perceptual, world.metric_features):
        assert features.distance(faces, faces).abs().max().item() < 1e-5
        assert features.distance(faces, faces.flip(0)).min().item() > 1e-3
    assert world.metric_features.pooled(faces).shape[0] == 2
    assert world.metric_features.expression(faces).sum(1).tolist() == pytest.approx([1.0, 1.0])
    assert world.reporting


def test_landmarks_and_contours_are_where_ffhq_alignment_puts_a_face() -> None:
    world = photo_world()
    faces = drawn(world, 4)
    points = world.landmarks(faces) / 128
    eyes, mouth = points[:, 36:48].mean(1).mean(0), points[:, 48:68].mean(1).mean(0)
    assert eyes.tolist() == pytest.approx([0.5, 0.47], abs=0.04)
    assert mouth.tolist() == pytest.approx([0.5, 0.74], abs=0.05)
    assert world.contours is not None
    lips = world.contours(faces)[:, : len(LIPS)].mean((0, 1)) / 128
    assert lips.tolist() == pytest.approx(mouth.tolist(), abs=0.03)
    larger = world.landmarks(F.interpolate(faces, size=256, mode="bilinear")) / 256
    assert (larger - points).abs().max().item() < 0.02


def test_openings_are_in_spreads_over_generated_faces() -> None:
    """And no unit of the points counts."""
    contours = photo_world().contours
    assert isinstance(contours, MeshPoints)
    faces = drawn(photo_world(), 16)
    points = contours(faces)
    openings = contours.openings(points)
    assert openings.shape == (16, len(OPENINGS))
    assert torch.allclose(openings, contours.openings(points / 128), atol=1e-3)
    assert openings.mean().abs().item() < 0.5
    assert 0.5 < openings.std().item() < 1.6
    wider = points.clone()
    lower = (LIPS + LIDS).index(14)
    wider[:, lower, 1] += 10.0  # the lower lip falls
    assert (contours.openings(wider) - openings)[:, 0].min().item() > 2.0
    code = contours.code(faces)
    assert code.shape == (16, contours.dim)
    assert 0.2 < code.std(0).mean().item() < 3.0


def test_gradients_reach_w_through_every_network_and_no_weight_changes() -> None:
    world = photo_world()
    z = torch.randn(1, 512, generator=torch_generator("gradients"))
    w = world.truncated_mapping(z).requires_grad_(True)
    picture = world.draw(w, 128)
    networks: list[Any] = [world.identity, world.landmarks, world.contours, world.expression_trunk]

    def perceptual(faces: Tensor) -> Tensor:
        return world.perceptual.distance(faces, faces.detach().flip(3))

    for network in (*networks, perceptual):
        (gradient,) = torch.autograd.grad(network(picture).square().sum(), w, retain_graph=True)
        assert gradient.abs().sum().item() > 0
        assert bool(gradient.isfinite().all())
    for network in (world.generator, *networks):
        assert isinstance(network, nn.Module)
        assert not any(parameter.requires_grad for parameter in network.parameters())


def test_one_w_draws_the_same_face_at_every_resolution() -> None:
    world = photo_world()
    z = torch.randn(4, 512, generator=torch_generator("resolutions"))
    with torch.inference_mode():
        w = world.truncated_mapping(z)
        whole = torch.cat([world.draw(one[None], 1024) for one in w])
        assert whole.shape[-1] == 1024
        for side, least in ((128, 25.0), (256, 30.0), (512, 34.0)):
            picture, reduced = world.draw(w, side), F.avg_pool2d(whole, 1024 // side)
            assert picture.shape == reduced.shape
            errors = (picture - reduced).square().mean(dim=(1, 2, 3))
            assert 10 * torch.log10(4 / errors).mean().item() > least, side
    assert world.draw(w, 130).shape[-1] == 256  # the next that holds it
    assert world.draw(w).shape[-1] == 128


def test_people_stay_themselves_in_another_view() -> None:
    world = photo_world()
    faces = to_tensor(world.test_faces(6, 2, 5).pixels)
    for recognizer in (world.identity, *world.held_out.values()):
        codes = recognizer(faces)
        cosines = codes[::2] @ codes[1::2].T
        same, others = cosines.diagonal(), cosines[~torch.eye(6, dtype=torch.bool)]
        assert same.mean().item() > others.mean().item() + others.std().item()


def test_the_commercial_variant_refuses_this_generator(tmp_path: Path) -> None:
    with pytest.raises(DeidError, match="StyleGAN2"):
        load_photo_world(PARAMS.model_copy(update={"commercial": True}), Store(tmp_path))


def test_a_missing_file_names_the_command_that_brings_it(tmp_path: Path) -> None:
    with pytest.raises(DeidError, match="deid weights fetch mobile-stylegan-synthesis"):
        load_photo_world(PARAMS, Store(tmp_path))


def test_pairs_of_a_side_that_a_world_does_not_draw_are_refused(tmp_path: Path) -> None:
    params = SampleParams(count=4, shard_size=2, batch_size=2, workers=1, resolution=96)
    with pytest.raises(DeidError, match=r"sample\.resolution: 96"):
        sample_from(params, toy_world, tmp_path / "latents")


def test_a_world_of_one_resolution_draws_at_that_whatever_is_asked() -> None:
    world = toy_world()
    w = world.generator.mapping(torch.randn(1, world.generator.z_dim))
    assert world.resolutions == (world.resolution,)
    assert torch.equal(world.draw(w, 999), world.draw(w))


def test_haar_is_undone_by_its_inverse() -> None:
    from deid.nets.mobile_stylegan import inverse_haar

    pictures = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(inverse_haar(haar(pictures)), pictures)


def test_a_head_is_solved_for_and_then_trained() -> None:
    small = small_generator()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = MobileStyleGAN(small.mapping_network, small.synthesis_network)
    generator.requires_grad_(False)
    ws = torch.randn(30, generator.num_ws, 8, generator=torch_generator("heads"))
    with torch.no_grad():
        whole = generator.synthesis(ws)
    pictures = {side: F.avg_pool2d(whole, 64 // side).half() for side in generator.resolutions[:-1]}
    head = _Head(generator, 32, Examples(ws, pictures))
    untrained = head.psnr()
    head.solve()
    solved = head.psnr()
    assert solved > untrained + 3.0
    head.train(30, seed=0)
    assert head.psnr() > solved - 0.5
    assert not any(parameter.requires_grad for parameter in generator.parameters())


def test_looks_and_code_of_one_pass_are_those_of_two() -> None:
    world = photo_world()
    assert world.looks is not None
    assert isinstance(world.looks, LooksOfIdentity)
    faces = drawn(world)
    code, looks = world.code_and_looks(faces)
    assert torch.equal(code, world.identity(faces))
    assert looks is not None
    assert torch.equal(looks, world.looks(faces))


def test_heads_that_are_not_asked_for_stay_as_they_are() -> None:
    """Stages are trained through the one for 128 px."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = MobileStyleGAN(StyleMapping(8, 2), MobileSynthesis((8,) * 4, 8))
    before = {name: value.clone() for name, value in generator.ours().state_dict().items()}
    smallest, *asked = generator.resolutions[:-1]
    reached = fit_heads(generator, HELD_OUT + 2, steps=1, sides=asked)
    assert set(reached) == {smallest, *asked}
    after = generator.ours().state_dict()
    assert {
        name.split(".")[1] for name in before if not torch.equal(before[name], after[name])
    } == {str(side) for side in asked}


def test_what_is_ours_is_stored_apart_from_the_public_files() -> None:
    generator = MobileStyleGAN(StyleMapping(8, 2), MobileSynthesis((8,) * 4, 8))
    names = set(generator.ours().state_dict())
    assert "w_mean" in names
    assert all(name == "w_mean" or name.startswith("heads.") for name in names)
    other = MobileStyleGAN(StyleMapping(8, 2), MobileSynthesis((8,) * 4, 8))
    generator.w_mean.fill_(2.0)
    other.load_ours(generator.ours().state_dict())
    assert other.w_mean.tolist() == [2.0] * 8
