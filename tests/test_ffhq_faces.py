"""Public face networks behind the world's protocols: crops, numbers, units, gradients, attacks."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deid.anonymize.gradient import FGSM, PGD
from deid.errors import DeidError
from deid.faces.alignment import apply_affine, crop_to_picture, five_points
from deid.faces.detection.scrfd import Scrfd
from deid.nets.efficientnet_lite import EfficientNetLite0
from deid.nets.inception import fid_inception, inception_v3
from deid.nets.inception_resnet import InceptionResnetV1
from deid.nets.iresnet import IResNet
from deid.nets.mobilefacenet import MobileFaceNetRecognizer
from deid.nets.mobilefacenet68 import MobileFaceNetLandmarks
from deid.nets.mtcnn import OutputNet
from deid.nets.perceptual import Backbone, lpips
from deid.nets.vggface2 import VGGFace2ResNet
from deid.pixels import to_pixels, to_tensor
from deid.weights.importers import NETWORKS, build, read_checkpoint
from deid.worlds.ffhq.world import Files, _perceptual
from deid.worlds.mini.render.parameters import random_parameters
from deid.worlds.mini.render.person import person_of
from deid.worlds.photo.world import _perceptual as _perceptual_of_photo
from deid.worlds.public.conventions import ARCFACE_POINTS, CONVENTIONS, FFHQ_POINTS, cut
from deid.worlds.public.faces import Embedder, embedder, expression_trunk, landmarks, perceptual
from deid.worlds.public.five import FiveLandmarks, shape_from_five
from deid.worlds.world import FaceEmbedder, LandmarkNetwork, MetricNetwork

CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
SMALL: dict[str, Any] = {"blocks": (1, 1, 1, 1), "widths": (8, 8, 16, 16), "dim": 12}


def ramps(height: int, width: int) -> Tensor:
    """A picture that says in its first two channels where each pixel is, in pixels."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x, y, torch.zeros_like(x)])[None]


def random_faces(count: int, height: int, width: int) -> Tensor:
    """Smooth noise in [-1, 1]."""
    drawn = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.tanh(nn.functional.interpolate(drawn, size=(height, width), mode="bicubic"))


@pytest.mark.parametrize("size", [(64, 64), (256, 256), (1024, 1024), (200, 260)])
@pytest.mark.parametrize("name", CONVENTIONS)
def test_a_crop_shows_the_part_of_the_picture_its_points_are_mapped_to(
    name: str, size: tuple[int, int]
) -> None:
    convention = CONVENTIONS[name]
    side = convention.size
    shown = cut(ramps(*size), convention.crop, side, convention.antialias)[0, :2].permute(1, 2, 0)
    inputs = ramps(side, side)[0, :2].permute(1, 2, 0) / side
    wanted = convention.to_picture(inputs, width=size[1], height=size[0])
    # At the picture's edge its outermost pixels are repeated, as far as a shrinking filter reaches.
    margin = 1 + 2 * max(1.0, max(size) / side)
    far = torch.tensor([size[1] - margin, size[0] - margin])
    inside = ((wanted > margin) & (wanted < far)).all(-1)
    assert inside.float().mean() > 0.8
    assert (shown - wanted)[inside].abs().max() < 0.1  # pixels: a filter of few taps has a bias


def test_the_five_points_come_to_lie_on_arcfaces_template() -> None:
    convention = CONVENTIONS["iresnet"]
    template = (torch.tensor(ARCFACE_POINTS) + 0.5) / 112
    found = convention.to_picture(template, 512, 512)
    # The two templates are no similar figures; less than 2 % of the width remains of each point.
    assert (found - torch.tensor(FFHQ_POINTS)).norm(dim=1).max() < 0.02 * 512


RED = (1.0, 0.0, -1.0)  # RGB of one color in [-1, 1]: 255, 127.5, 0


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("vggface2_resnet50", (0 - 91.4953, 127.5 - 103.8827, 255 - 131.0912)),
        ("iresnet", (1.0, 0.0, -1.0)),
        ("inception_resnet_v1", (127.5 / 128, 0.0, -127.5 / 128)),
        ("mobilefacenet", ((1 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (0 - 0.406) / 0.225)),
        ("mobilefacenet68", (0.0, 0.5, 1.0)),
        ("mtcnn", (127.5 / 128, 0.0, -127.5 / 128)),
        ("inception_v3", (1.0, 0.0, -1.0)),
        ("fid_inception", (1.0, 0.0, -1.0)),
    ],
)
def test_channels_means_and_deviations(name: str, wanted: tuple[float, float, float]) -> None:
    color = torch.tensor(RED)[None, :, None, None].expand(1, 3, 90, 90)
    seen = CONVENTIONS[name](color)
    side = CONVENTIONS[name].size
    expected = torch.tensor(wanted)[None, :, None, None].expand(1, 3, side, side)
    torch.testing.assert_close(seen, expected, atol=2e-5, rtol=1e-5)


def test_every_network_but_lpips_has_a_convention() -> None:
    from deid.weights.importers.faces import FACE_NETWORKS

    assert set(CONVENTIONS) == set(FACE_NETWORKS) - {"lpips"} | {"mtcnn"}
    assert set(FACE_NETWORKS) <= set(NETWORKS)


@pytest.mark.parametrize("size", [(64, 64), (256, 256), (96, 80), (33, 47)])
def test_recognizers_give_unit_vectors_and_gradients_for_faces_of_scale_invariant(
    size: tuple[int, int],
) -> None:
    torch.manual_seed(0)
    networks = {
        "vggface2_resnet50": VGGFace2ResNet((1, 1, 1, 1), 8),
        "iresnet": IResNet(**SMALL),
        "mobilefacenet": MobileFaceNetRecognizer(16, 32),
        "inception_resnet_v1": InceptionResnetV1(),
    }
    faces = random_faces(2, *size).requires_grad_()
    for name, network in networks.items():
        recognizer: FaceEmbedder = embedder(name, network)
        vectors = recognizer(faces)
        assert vectors.shape == (2, recognizer.dim)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
        (slope,) = torch.autograd.grad((vectors * torch.randn(vectors.shape)).sum(), faces)
        assert slope.isfinite().all(), name
        assert (slope.abs().amax((1, 2, 3)) > 0).all(), name
        assert not any(
            p.requires_grad or m.training for m in network.modules() for p in [*m.parameters()]
        )


def test_no_pixel_of_a_large_picture_is_without_influence_inside_the_crop() -> None:
    torch.manual_seed(0)
    faces = random_faces(1, 512, 512).requires_grad_()
    recognizer = embedder("mobilefacenet", MobileFaceNetRecognizer(16, 32))
    (slope,) = torch.autograd.grad(recognizer(faces)[:, 0].sum(), faces)
    assert (slope[0, :, 200:350, 160:350].abs().sum(0) > 0).float().mean() > 0.99


def test_half_precision_pictures_are_cut_at_the_same_place() -> None:
    for name, convention in CONVENTIONS.items():
        faces = random_faces(1, 200, 200).bfloat16()
        seen, wanted = convention(faces), convention(faces.float())
        assert torch.equal(seen, wanted), name


@pytest.mark.parametrize(
    ("name", "make", "size"),
    [
        ("mobilefacenet68", MobileFaceNetLandmarks, (224, 336)),
        ("mtcnn", OutputNet, (336, 336)),  # a stretched face is not turned, shifted or scaled
    ],
)
def test_landmarks_are_in_pixels_of_the_input_whatever_its_size(
    name: str, make: Callable[[], nn.Module], size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    network: LandmarkNetwork = landmarks(name, make())
    small = random_faces(2, 112, 112)
    large = nn.functional.interpolate(small, size=size, mode="bilinear")
    found, again = network(small), network(large)
    assert found.shape == (2, 68, 2)
    assert (again * 112 / torch.tensor(size[::-1]) - found).abs().max() < 1.0
    faces = small.requires_grad_()
    (slope,) = torch.autograd.grad(network(faces).sum(), faces)
    assert slope.abs().max() > 0


def test_landmarks_from_five_points_keep_these_and_turn_with_the_face() -> None:
    network = landmarks("mtcnn", OutputNet())
    assert isinstance(network, FiveLandmarks)
    five = torch.tensor(FFHQ_POINTS)[None] + 8 * torch.randn(4, 5, 2)
    found = network.spread(five)
    np.testing.assert_allclose(five_points(found.numpy()), five.numpy(), atol=0.01)
    turn = 0.7 * torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    moved = network.spread(five @ turn.T + 50)
    torch.testing.assert_close(moved, found @ turn.T + 50, atol=0.01, rtol=0)


@pytest.mark.slow
def test_the_table_from_five_to_68_points_is_the_fit_over_rendered_people() -> None:
    with torch.no_grad():
        people = person_of(torch.from_numpy(random_parameters(range(1000), 0)))
        landmarks = people.landmarks().double().numpy()
    five = five_points(landmarks)
    center = five.mean(axis=1, keepdims=True)
    whole, known = ((points - center) @ np.array([1, 1j]) for points in (landmarks, five))
    solved, *_ = np.linalg.lstsq(known.reshape(-1, 5), whole.reshape(-1, 68), rcond=None)
    np.testing.assert_allclose(shape_from_five(), solved.T, atol=1e-5)


def test_landmarks_from_five_points_lie_where_a_face_has_them() -> None:
    network = landmarks("mtcnn", OutputNet())
    assert isinstance(network, FiveLandmarks)
    points = network.spread(torch.tensor(FFHQ_POINTS)[None])[0] / 512
    jaw, brows, nose, eyes = points[:17], points[17:27], points[27:36], points[36:48]
    around = jaw[1:16, 0]  # the ears may lie a little inside
    assert (around[1:] > around[:-1]).all()  # from the left of the picture to the right
    assert jaw[8, 1] == jaw[:, 1].max() > points[17:, 1].max()
    assert brows[:, 1].max() < eyes[:, 1].min()
    assert (nose[1:4, 1] > nose[:3, 1]).all()
    x0, x1 = jaw[:, 0].min(), jaw[:, 0].max()
    assert 0.1 < x0 < points[17:, 0].min()
    assert points[17:, 0].max() < x1 < 0.9


def test_the_perceptual_network_is_fids_and_lpips_and_says_so() -> None:
    torch.manual_seed(0)
    network: MetricNetwork = perceptual(fid_inception(), lpips("alex", heads=True))
    assert (network.fid_label, network.lpips_label) == ("FID", "LPIPS (AlexNet)")
    a, b = random_faces(2, 64, 64).split(1)
    assert network.pooled(a).shape == (1, 2048)
    pair = torch.cat([a, b]).requires_grad_()
    distance = network.distance(pair, torch.cat([a, a]))
    assert distance.shape == (2,)
    assert distance[0].abs() < 1e-6 < distance[1]
    (slope,) = torch.autograd.grad(distance.sum(), pair)
    assert slope[1].abs().max() > 0


def test_photographs_get_standard_figures_where_their_files_are_named() -> None:
    trunk = ("efficientnet_lite0", EfficientNetLite0())
    inception, alex = ("fid_inception", fid_inception()), ("lpips", lpips("alex", heads=True))
    perceptual, standard = _perceptual_of_photo([trunk, inception, alex])
    assert perceptual.network is trunk[1]
    assert standard is not None
    assert (standard.fid_label, standard.lpips_label) == ("FID", "LPIPS (AlexNet)")
    assert _perceptual_of_photo([trunk])[1] is _perceptual_of_photo([trunk, alex])[1] is None
    with pytest.raises(DeidError, match="no efficientnet_lite0"):
        _perceptual_of_photo([inception, alex])


def test_what_trains_and_what_measures_are_different_backbones_of_lpips() -> None:
    class Given:
        def __init__(self, *backbones: Backbone) -> None:
            self.backbones = backbones

        def networks(self, role: str) -> Iterator[tuple[str, str, nn.Module]]:
            yield "fid-inception", "fid_inception", fid_inception()
            yield from ((name, "lpips", lpips(name)) for name in self.backbones)

    trains, measures = _perceptual(cast(Files, Given("alex", "vgg")))
    assert (trains.lpips_label, measures.lpips_label) == ("LPIPS (VGG-16)", "LPIPS (AlexNet)")
    one, same = _perceptual(cast(Files, Given("alex")))
    assert one is same  # which reports tell
    with pytest.raises(DeidError, match="no lpips among them"):
        _perceptual(cast(Files, Given()))


def test_the_expression_trunk_gives_2048_features_and_passes_gradients() -> None:
    trunk = expression_trunk(inception_v3())
    face = random_faces(1, 64, 64).requires_grad_()
    features = trunk(face)
    assert features.shape == (1, 2048) == (1, trunk.dim)
    (slope,) = torch.autograd.grad(features.sum(), face)
    assert slope.abs().max() > 0


# On pictures of people


@pytest.fixture(scope="module")
def recognizer(assets: Path) -> Embedder:
    file = assets / "weights/foamliu_mobilefacenet.pt"
    return embedder("mobilefacenet", build(read_checkpoint(file)))


@pytest.fixture(scope="module")
def people(assets: Path) -> Tensor:
    """Six faces, each of another person."""
    files = sorted((assets / "photoreal").glob("*.jpg"))[:120:20]
    if not files:
        pytest.skip(f"no pictures in {assets / 'photoreal'}")
    return to_tensor(np.stack([cv2.imread(str(f))[..., ::-1] for f in files]))


def test_a_trained_recognizer_knows_a_mirrored_face_from_another(
    recognizer: Embedder, people: Tensor
) -> None:
    vectors, mirrored = recognizer(people), recognizer(people.flip(3))
    cosines = vectors @ mirrored.T
    same, other = cosines.diagonal(), cosines[~torch.eye(len(people), dtype=torch.bool)]
    assert same.min() > 0.7
    assert other.max() < 0.6


def test_o_nets_landmarks_align_photographs_as_a_detectors_points_do(
    assets: Path, people: Tensor
) -> None:
    """Two detectors' eyes differ by 0.06 of the distance between them, and their crops by 0.05."""
    onet = landmarks("mtcnn", build(read_checkpoint(assets / "weights/onet.pt")))
    finder = Scrfd(assets / "weights/det_500m.onnx")
    found = five_points(onet(people).double().numpy())
    # The faces fill their pictures, and SCRFD looks for smaller ones.
    pictures = to_pixels(nn.functional.pad(people, (128, 128, 128, 128)))
    wanted = np.stack([finder.find(picture).points[0] for picture in pictures]) - 128.0
    distance = np.linalg.norm(wanted[:, 0] - wanted[:, 1], axis=1)
    miss = np.linalg.norm(found - wanted, axis=2)[:, :2].mean(1) / distance
    assert miss.mean() < 0.05
    assert miss.max() < 0.1
    squares = [apply_affine(crop_to_picture(p, 1), CORNERS) for p in (found, wanted)]
    shift = np.linalg.norm(squares[0] - squares[1], axis=2).mean(1)
    side = np.linalg.norm(squares[1][:, 0] - squares[1][:, 1], axis=1)
    assert (shift / side).mean() < 0.05


def test_white_box_attacks_make_people_unrecognizable_to_the_attacked_network(
    recognizer: Embedder, people: Tensor
) -> None:
    seeds = range(len(people))
    original = recognizer(people)
    for attack, bound in ((FGSM(recognizer, 0.03), 0.75), (PGD(recognizer, 0.03, 8), 0.5)):
        changed = attack(people, seeds)
        assert (changed - people).abs().max() <= 2 * 0.03 + 1e-6
        similarity = (recognizer(changed) * original).sum(1)
        assert similarity.max() < bound, attack.name
