"""Rivals from the field: each one's defining property, in the toy world."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from deid.anonymize import RIVALS, ModelPaths, build
from deid.anonymize.invert import invert
from deid.anonymize.rivals.fawkes import BUDGET, Fawkes, dssim
from deid.anonymize.rivals.glasses import frame
from deid.anonymize.rivals.hat import sticker
from deid.anonymize.rivals.k_same import Kind, KSame
from deid.anonymize.rivals.lowkey import LowKey, blurred
from deid.anonymize.rivals.overlay import Draw, region
from deid.anonymize.rivals.patch import disk
from deid.anonymize.rivals.tip_im import EPSILON, TIPIM, mmd
from deid.anonymize.rivals.undetected import EPSILON as DETECTOR_EPSILON
from deid.anonymize.rivals.undetected import Undetected, logits
from deid.anonymize.strangers import drawn
from deid.errors import DeidError
from deid.faces.detection.center import CenterDetector
from deid.imaging.warp import warped
from deid.model import Deidentifier
from deid.params import AnonymizeParams, WorldParams
from deid.pixels import to_pixels, to_tensor
from deid.seeds import torch_generator
from deid.training.rivals.__main__ import TASKS
from deid.worlds import load_world
from tests.toy import toy_world
from tests.toy_model import save_toy_model

SEEDS = [3, 1, 4]
WORLD = toy_world()
KINDS: tuple[Kind, ...] = ("average", "select", "furthest")
OVERLAYS: dict[str, Draw] = {"patch": disk, "glasses": frame, "hat": sticker}


@pytest.fixture(scope="module")
def faces() -> Tensor:
    z = torch.randn(len(SEEDS), WORLD.generator.z_dim, generator=torch_generator("test faces"))
    return WORLD.generator.synthesis(WORLD.generator.mapping(z))


def cosines(a: Tensor, b: Tensor) -> Tensor:
    return (WORLD.identity(a) * WORLD.identity(b)).sum(1)


@pytest.fixture(scope="module", params=KINDS)
def k_same(request: pytest.FixtureRequest) -> KSame:
    return KSame(WORLD, request.param, k=3, gallery=20)


def gallery(method: KSame) -> Tensor:
    return drawn(WORLD, method.people, WORLD.resolution)


def test_k_same_gives_each_output_to_at_least_k_people(k_same: KSame) -> None:
    outputs = k_same(gallery(k_same), [0] * 20)
    shared = Counter(output.numpy().tobytes() for output in outputs)
    assert min(shared.values()) >= k_same.k
    assert sum(shared.values()) == 20
    assert len(shared) > 1


def test_clusters_of_k_same_part_the_gallery(k_same: KSame) -> None:
    members = sorted(one for cluster in k_same.clusters for one in cluster.members)
    assert members == list(range(20))
    assert all(len(cluster.averaged) >= k_same.k for cluster in k_same.clusters)


def test_k_same_select_never_joins_an_open_and_a_closed_mouth_where_both_have_k_people() -> None:
    method = KSame(WORLD, "select", k=3, gallery=20)
    assert set(Counter(method.utility).values()) == {10}
    for cluster in method.clusters:
        assert len({method.utility[one] for one in cluster.members}) == 1


def test_k_same_furthest_gives_nobody_a_mean_of_which_they_are_part() -> None:
    method = KSame(WORLD, "furthest", k=3, gallery=20)
    for cluster in method.clusters:
        assert not set(cluster.members) & set(cluster.averaged)
    average = KSame(WORLD, "average", k=3, gallery=20)
    people = gallery(method)
    far, near = (cosines(rival(people, [0] * 20), people).mean() for rival in (method, average))
    assert far < near


def test_a_gallery_of_fewer_than_two_clusters_is_one() -> None:
    for kind in KINDS:
        assert len(KSame(WORLD, kind, k=3, gallery=5).clusters) == 1


def test_a_warp_brings_landmarks_where_they_are_wanted(faces: Tensor) -> None:
    points = WORLD.landmarks(faces[:1])[0].double().numpy()
    dot = torch.zeros(1, 3, 64, 64)
    x, y = points[30].round().astype(int)
    dot[..., y - 1 : y + 2, x - 1 : x + 2] = 1.0
    moved = warped(to_pixels(dot)[0], points, points + np.array([5.0, -3.0]))[..., 0]
    found = torch.from_numpy(moved - moved.min())
    rows, columns = torch.arange(64.0), torch.arange(64.0)
    center = (found.sum(0) @ columns / found.sum(), found.sum(1) @ rows / found.sum())
    assert abs(float(center[0]) - (x + 5)) < 1
    assert abs(float(center[1]) - (y - 3)) < 1
    still = warped(to_pixels(faces)[0], points, points)
    assert abs(still - to_pixels(faces)[0]).max() <= 1


def test_fawkes_holds_its_budget_and_comes_nearer_to_its_target(faces: Tensor) -> None:
    tight = Fawkes(WORLD, 0.001, steps=5)(faces, SEEDS)
    assert (dssim(faces, tight) <= 0.001 + 1e-6).all()
    method, face, seed = Fawkes(WORLD), faces[2:], SEEDS[2]
    output = method(face, [seed])
    assert (dssim(face, output) <= BUDGET + 1e-6).all()
    before, after = (WORLD.identity(p) @ method.target(face, seed).T for p in (face, output))
    assert after > before + 0.01


def test_fawkes_takes_the_farthest_candidate(faces: Tensor) -> None:
    method = Fawkes(WORLD)
    candidates = method.strangers.some(20, 7)
    chosen = method.target(faces[:1], 7)
    assert (
        (candidates @ WORLD.identity(faces[:1])[0])
        >= (chosen @ WORLD.identity(faces[:1])[0]) - 1e-6
    ).all()
    assert not torch.equal(chosen, method.target(faces[:1], 8))


def test_dssim_is_that_of_scikit_image(faces: Tensor) -> None:
    from skimage.metrics import structural_similarity

    other = (faces + 0.1 * torch.randn(faces.shape, generator=torch_generator("n"))).clamp(-1, 1)
    for a, b, found in zip(faces, other, dssim(faces, other), strict=True):
        _, whole = structural_similarity(
            a.numpy(),
            b.numpy(),
            data_range=2.0,
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )
        # At the border the two mirror differently.
        assert float(found) == pytest.approx((1.0 - whole.mean()) / 2.0, abs=2e-3)
    assert dssim(faces, faces).abs().max() < 1e-6


def test_lowkey_leaves_all_networks_that_it_attacks_sharp_and_blurred(faces: Tensor) -> None:
    method = LowKey(WORLD)
    output = method(faces, SEEDS)
    noise = torch.rand(faces.shape, generator=torch_generator("noise")) * 2 - 1
    random = (faces + (output - faces).abs().max() * noise.sign()).clamp(-1, 1)
    for network in method.ensemble:
        for seen in (lambda images: images, blurred):
            known = network(faces)
            far = (network(seen(output)) - known).norm(dim=1)
            assert (far > (network(seen(random)) - known).norm(dim=1)).all()


def test_lowkey_keeps_more_of_the_picture_where_likeness_counts_more(faces: Tensor) -> None:
    distances = [
        float(WORLD.perceptual.distance(faces, LowKey(WORLD, alpha, 15)(faces, SEEDS)).mean())
        for alpha in (0.0, 50.0)
    ]
    assert distances[1] < distances[0]


def test_tip_im_stays_within_epsilon_and_is_taken_for_a_target(faces: Tensor) -> None:
    method = TIPIM(WORLD, gamma=0.0)
    output = method(faces, SEEDS)
    assert ((output - faces).abs() / 2).max() <= EPSILON + 1e-6
    assert (cosines(output, faces) < 0.99).all()
    for face, made, seed in zip(faces, output, SEEDS, strict=True):
        targets, known = method.strangers.some(10, seed), WORLD.identity(face[None])[0]
        codes = [WORLD.identity(p[None])[0] for p in (face, made)]
        before, after = (float((targets @ code).max() - known @ code) for code in codes)
        assert after > before + 0.005


def test_mmd_is_nothing_between_equal_pictures_and_grows_with_the_difference(
    faces: Tensor,
) -> None:
    near, far = (float(mmd(faces[:1], faces[:1] + step)) for step in (0.01, 0.1))
    assert float(mmd(faces[:1], faces[:1])) == 0.0
    assert 0.0 < near < far


def test_tip_im_comes_less_far_where_the_naturalness_term_counts(faces: Tensor) -> None:
    moved = [
        float((TIPIM(WORLD, gamma=gamma, steps=16)(faces, SEEDS) - faces).square().mean())
        for gamma in (0.0, 1e3)
    ]
    assert moved[1] < moved[0]


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_changes_its_region_only_and_lowers_the_cosine(name: str, faces: Tensor) -> None:
    output = build(name, WORLD, None, AnonymizeParams())(faces, SEEDS)
    for face, made in zip(torch.split(faces, 1), torch.split(output, 1), strict=True):
        inside = region(WORLD, face, OVERLAYS[name]) > 0
        assert 0.02 < inside.float().mean() < 0.25
        assert torch.equal(made[..., ~inside], face[..., ~inside])
        flat = torch.where(inside, 0.0, face)
        assert float(cosines(made, face)) < min(0.97, float(cosines(flat, face)))


def test_an_overlay_lies_on_the_face_that_it_is_drawn_for(faces: Tensor) -> None:
    points = WORLD.landmarks(faces[:1])[0]
    centers = {}
    for name, draw in OVERLAYS.items():
        rows, columns = region(WORLD, faces[:1], draw).nonzero().double().mean(0)
        centers[name] = float(columns), float(rows)
    brows, eyes, mouth = (
        points[part][:, 1].mean() for part in (slice(17, 27), slice(36, 48), slice(48, 68))
    )
    assert centers["hat"][1] < brows
    assert abs(centers["glasses"][1] - eyes) < 6
    assert eyes < centers["patch"][1] < mouth + 3
    assert centers["patch"][0] < points[33, 0]


def test_the_detector_finds_no_face_that_was_hidden_from_it() -> None:
    world = load_world(WorldParams())
    faces = to_tensor(world.test_faces(3, 1, 0).pixels)
    hidden = build("undetected", world, None, AnonymizeParams())(faces, SEEDS)
    before, after = (world.detector.detect(list(to_pixels(each))) for each in (faces, hidden))
    assert all(len(found) == 1 for found in before)
    assert sum(len(found) for found in after) == 0
    assert (hidden - faces).abs().max() <= 2 * DETECTOR_EPSILON + 1e-6


def test_the_detector_attack_asks_the_net_as_the_detector_does() -> None:
    world = load_world(WorldParams())
    pixels = world.test_faces(1, 1, 0).pixels
    detector = world.detector
    assert isinstance(detector, CenterDetector)
    with torch.no_grad():
        highest = max(float(z.max()) for z in logits(detector.net, to_tensor(pixels)))
    (found,) = detector.detect(list(pixels))
    assert 1 / (1 + math.exp(-highest)) == pytest.approx(float(found.scores.max()), abs=0.01)


def test_a_detector_without_gradients_cannot_be_attacked() -> None:
    with pytest.raises(DeidError, match="passes no gradients"):
        Undetected(WORLD)


def test_inversion_into_w_has_one_w_and_into_w_plus_one_a_layer(
    faces: Tensor, tmp_path_factory: pytest.TempPathFactory
) -> None:
    models: ModelPaths = save_toy_model(tmp_path_factory.mktemp("models"))
    model = Deidentifier.load(models.stage_one, models.stage_two, WORLD)
    start = model.reconstruct(faces)
    single, every = (invert(model, faces, 30, single) for single in (True, False))
    assert single.shape == (3, WORLD.generator.w_dim)
    assert every.shape == (3, WORLD.generator.num_ws, WORLD.generator.w_dim)
    drawn_again = [model.synthesize(w, 64) for w in (single, every)]
    for made in drawn_again:
        assert cosines(made, faces).mean() > cosines(start, faces).mean()


def test_no_rival_asks_a_network_that_judges() -> None:
    from dataclasses import replace

    class Judge(torch.nn.Module):
        dim = 4

        def forward(self, *_: object) -> Tensor:
            raise AssertionError("asked by a rival")

        pooled = distance = expression = forward

    judge = Judge()
    world = replace(
        WORLD,
        held_out=dict.fromkeys(WORLD.held_out, judge),
        metric_features=judge,  # type: ignore[arg-type]
    )
    face = to_tensor(to_pixels(WORLD.generator.synthesis(torch.zeros(1, 16))))
    elsewhere = {*TASKS, "undetected"}  # have tests of their own
    for name in RIVALS.keys() - elsewhere:
        assert build(name, world, None, AnonymizeParams())(face, [0]).shape == face.shape
