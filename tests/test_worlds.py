"""The world bundle: what every network of it must do, and how good the mini world's are."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn

from deid.errors import DeidError
from deid.faces.alignment import five_points
from deid.faces.detection.boxes import suppress
from deid.params import WorldParams
from deid.pixels import Pixels, to_pixels, to_tensor
from deid.seeds import seed_of
from deid.worlds import load_world
from deid.worlds.cards import Card
from deid.worlds.mini.pretrain import dataset
from deid.worlds.mini.pretrain.__main__ import TASKS
from deid.worlds.mini.pretrain.augment import Jitter, augment
from deid.worlds.mini.pretrain.dataset import Renders, RenderSettings, make_renders
from deid.worlds.mini.pretrain.train_detector import match
from deid.worlds.mini.pretrain.train_landmarks import landmark_errors
from deid.worlds.mini.pretrain.train_recognizer import Margin, margin_logits, verification
from deid.worlds.mini.pretrain.windows import scene, targets, window
from deid.worlds.mini.render.parameters import identity_views
from deid.worlds.mini.render.renderer import render
from deid.worlds.mini.test_faces import held_out_faces
from deid.worlds.training_loop import Batches, Run, Schedule, Task, train
from deid.worlds.world import World
from tests.test_layers import ROOT, graph, modules
from tests.toy import ToyPerceptual, toy_world

WEIGHTS = ROOT / "data/mini/weights"


@dataclass(frozen=True)
class Unseen:
    """Renders of people no network has seen."""

    pixels: Pixels
    identities: NDArray[np.int64]
    landmarks: Tensor


@pytest.fixture(scope="module")
def unseen() -> Unseen:
    parameters = identity_views(range(100), 8, seed_of("tests/worlds"))
    drawn = render(torch.from_numpy(parameters))
    return Unseen(to_pixels(drawn.images), np.repeat(np.arange(100), 8), drawn.landmarks)


def _networks(world: World) -> dict[str, nn.Module]:
    perceptual, landmarks = world.perceptual, world.landmarks
    assert isinstance(perceptual, nn.Module)
    assert isinstance(landmarks, nn.Module)
    generator, identity = world.generator, world.identity
    assert isinstance(generator, nn.Module)
    assert isinstance(identity, nn.Module)
    held_out = {name: net for name, net in world.held_out.items() if isinstance(net, nn.Module)}
    assert len(held_out) == len(world.held_out) == 2
    assert isinstance(world.metric_features, nn.Module)
    return held_out | {
        "metric_features": world.metric_features,
        "generator": generator,
        "identity": identity,
        "expression": world.expression_trunk,
        "landmarks": landmarks,
        "perceptual": perceptual,
    }


def test_every_network_is_frozen_and_in_eval_mode(world: World) -> None:
    for name, network in _networks(world).items():
        assert not any(p.requires_grad for p in network.parameters()), name
        assert not any(m.training for m in network.modules()), name


@pytest.mark.parametrize("size", [(64, 64), (256, 256), (96, 80), (33, 47)])
def test_networks_take_faces_of_any_size_and_pass_gradients_to_them(
    world: World, size: tuple[int, int]
) -> None:
    face = to_tensor(cv2.resize(held_out_faces(1, 1, 0).pixels[0], size[::-1])).requires_grad_()
    pair = torch.cat([face, face.flip(3)])
    outputs = {
        "identity": world.identity(pair),
        "landmarks": world.landmarks(pair),
        "expression": world.expression_trunk(pair),
        "pooled": world.metric_features.pooled(pair),
        "expression features": world.metric_features.expression(pair),
        "distance": world.perceptual.distance(pair, pair.detach().flip(0)),
        **{name: net(pair) for name, net in world.held_out.items()},
    }
    for name, output in outputs.items():
        assert len(output) == 2, name
        (gradient,) = torch.autograd.grad(output.sum(), face, retain_graph=True)
        assert gradient.isfinite().all(), name
        assert gradient.abs().sum() > 0, name


def test_embeddings_are_unit_vectors_of_the_size_they_say(world: World) -> None:
    faces = to_tensor(held_out_faces(3, 1, 0).pixels)
    for net in (world.identity, *world.held_out.values()):
        assert net(faces).shape == (3, net.dim)
        torch.testing.assert_close(net(faces).norm(dim=1), torch.ones(3))
    assert world.expression_trunk(faces).shape == (3, world.expression_dim)


def test_an_answer_does_not_depend_on_the_rest_of_the_batch(world: World) -> None:
    faces = to_tensor(held_out_faces(4, 1, 0).pixels)
    together, alone = world.identity(faces)[:1], world.identity(faces[:1])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


def test_landmarks_are_in_pixels_of_the_input_whatever_its_size(world: World) -> None:
    small = held_out_faces(4, 1, 0).pixels
    large = np.stack([cv2.resize(p, (192, 192), interpolation=cv2.INTER_LINEAR) for p in small])
    difference = world.landmarks(to_tensor(large)) / 3 - world.landmarks(to_tensor(small))
    assert difference.abs().mean() < 0.3


def test_perceptual_distance_is_zero_for_equal_pictures_and_grows_with_noise(world: World) -> None:
    faces = to_tensor(held_out_faces(8, 1, 0).pixels)
    noise = torch.randn(faces.shape, generator=torch.Generator().manual_seed(0))
    for network in (world.perceptual, world.metric_features):
        assert network.distance(faces, faces).abs().max() < 1e-6
        little = network.distance(faces, faces + 0.05 * noise)
        much = network.distance(faces, faces + 0.3 * noise)
        assert (little < much).all()


def test_the_generator_draws_pictures_from_w_and_from_w_plus(world: World) -> None:
    generator = world.generator
    z = torch.randn(2, generator.z_dim, generator=torch.Generator().manual_seed(1))
    w = generator.mapping(z)
    assert w.shape == (2, generator.w_dim)
    picture = generator.synthesis(w)
    assert picture.shape == (2, 3, world.resolution, world.resolution)
    plus = generator.synthesis(w[:, None].repeat(1, generator.num_ws, 1))
    torch.testing.assert_close(plus, picture, atol=1e-4, rtol=1e-4)


def test_held_out_faces_follow_from_the_seed_and_are_other_people_for_another() -> None:
    faces, again, other = (held_out_faces(2, 3, seed) for seed in (5, 5, 6))
    assert faces.pixels.shape == (6, 64, 64, 3)
    assert faces.identities.tolist() == [0, 0, 0, 1, 1, 1]
    assert (faces.pixels == again.pixels).all()
    assert not (faces.pixels == other.pixels).all((1, 2, 3)).any()


def test_a_missing_weight_file_is_named_with_a_remedy(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    shutil.copytree(WEIGHTS, weights)
    (weights / "landmarks.safetensors").unlink()
    with pytest.raises(DeidError, match=r"landmarks\.safetensors: missing.*make pretrain"):
        load_world(WorldParams(weights=weights))


def test_a_changed_weight_file_is_refused(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    shutil.copytree(WEIGHTS, weights)
    file = weights / "identity.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(DeidError, match=r"identity\.safetensors: SHA-256 is .* its card says"):
        load_world(WorldParams(weights=weights))


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    shutil.copytree(WEIGHTS, weights)
    for suffix in ("safetensors", "json"):
        shutil.copy(weights / f"landmarks.{suffix}", weights / f"detector.{suffix}")
    with pytest.raises(DeidError, match=r"detector\.safetensors: shapes"):
        load_world(WorldParams(weights=weights))


def test_the_worlds_hash_is_that_of_its_files(world: World) -> None:
    assert world.weights_sha256 == load_world(WorldParams(weights=WEIGHTS)).weights_sha256
    assert sum(f.stat().st_size for f in WEIGHTS.glob("*.safetensors")) <= 40e6


# How good the networks are, on people they have not seen.


def test_every_recognizer_accepts_nine_of_ten_at_one_false_in_a_thousand(
    world: World, unseen: Unseen
) -> None:
    faces = to_tensor(unseen.pixels)
    for name, net in {"identity": world.identity, **world.held_out}.items():
        embeddings = torch.cat([net(part) for part in faces.tensor_split(8)])
        assert verification(embeddings, unseen.identities)["tar_at_far_1e-3"] >= 0.90, name


def test_landmarks_are_within_three_hundredths_of_the_distance_of_the_eyes(
    world: World, unseen: Unseen
) -> None:
    found = torch.cat([world.landmarks(part) for part in to_tensor(unseen.pixels).tensor_split(8)])
    assert landmark_errors(found, unseen.landmarks)["inner_error"] <= 0.03


def test_the_detector_finds_one_face_in_aligned_pictures(world: World, unseen: Unseen) -> None:
    large = [cv2.resize(p, (256, 256)) for p in unseen.pixels[::8]]
    for pictures in (list(unseen.pixels), large):
        found = world.detector.detect(pictures)
        assert np.mean([len(f) > 0 for f in found]) >= 0.99
        assert np.mean([len(f) > 1 for f in found]) <= 0.02
    faces = world.detector.detect(list(unseen.pixels))
    truth = five_points(unseen.landmarks.numpy())
    errors = [np.abs(f.points[0] - t).mean() for f, t in zip(faces, truth, strict=True) if len(f)]
    assert np.mean(errors) < 2.0


def test_the_detector_finds_the_people_of_a_scene_and_little_else(world: World) -> None:
    scenes = [scene(i, "tests/scenes") for i in range(60)]
    found = world.detector.detect([s.pixels for s in scenes])
    matches = [match(f, s) for f, s in zip(found, scenes, strict=True)]
    assert sum(hit for hit, _ in matches) >= 0.97 * sum(s.clear.sum() for s in scenes)
    assert sum(false for _, false in matches) <= 0.05 * len(scenes)


def test_the_detector_finds_next_to_nothing_in_noise_and_flat_color(world: World) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (96, 112, 3), np.uint8) for _ in range(40)]
    gray = [np.clip(rng.normal(128, 30, (96, 112, 3)), 0, 255).astype(np.uint8) for _ in range(40)]
    assert sum(len(f) > 0 for f in world.detector.detect(noise + gray)) <= 2
    flat = [np.full((64, 64, 3), level, np.uint8) for level in (0, 90, 255)]
    tiny = np.zeros((1, 1, 3), np.uint8)
    assert sum(len(f) for f in world.detector.detect([*flat, tiny])) == 0
    assert world.detector.detect([]) == []


def test_the_detector_finds_no_face_under_an_opaque_mask(world: World, unseen: Unseen) -> None:
    masked = unseen.pixels[::8].copy()
    for picture in masked:
        cv2.ellipse(picture, (32, 36), (20, 26), 0, 0, 360, (0, 0, 0), -1)
    assert np.mean([len(f) > 0 for f in world.detector.detect(list(masked))]) <= 0.02


# How the networks are trained.


def pretraining_code(entry: str) -> list[str]:
    """The files that module `entry` imports, as the stages in data/mini/pretrain name them."""
    imported, known, seen = graph(), modules(), {"deid.errors", "deid.progress"}
    waiting = [entry]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += imported[module]
    files = {known[m].relative_to(ROOT) for m in seen - {"deid.errors", "deid.progress"}}
    return sorted(f"../../../{file.as_posix()}" for file in files)


@pytest.mark.parametrize(("stage", "entry"), [("renders", "dataset"), ("network", "__main__")])
def test_pretraining_depends_on_the_code_that_it_runs(stage: str, entry: str) -> None:
    stages = yaml.safe_load((ROOT / "data/mini/pretrain/dvc.yaml").read_text())["stages"]
    code = [d for d in stages[stage]["do"]["deps"] if d.endswith(".py")]
    assert code == pretraining_code(f"deid.worlds.mini.pretrain.{entry}")


def test_every_network_of_the_world_is_pretrained_and_published() -> None:
    folder = ROOT / "data/mini/pretrain"
    trained = yaml.safe_load((folder / "params.yaml").read_text())["networks"].keys()
    published = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]["publish"]["deps"]
    assert trained == TASKS.keys() == {path.stem for path in WEIGHTS.glob("*.json")}
    assert [Path(path).name for path in published] == list(trained)


def test_renders_resume_after_a_kill_and_end_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = RenderSettings(identities=13, views=16, seed=3)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    make_renders(settings, whole, workers=2)

    def killed(chunks: list[int], working: Path, *_: object) -> Iterator[int]:
        yield dataset._render_chunk(working, settings, chunks[-1])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(dataset, "_rendered", killed)
        with pytest.raises(KeyboardInterrupt):
            make_renders(settings, resumed)
    assert not resumed.exists()
    make_renders(settings, resumed, workers=1)
    for name in ("images", "parameters", "landmarks"):
        assert (whole / f"{name}.npy").read_bytes() == (resumed / f"{name}.npy").read_bytes()
    renders = Renders(whole)
    some = np.array([200, 3, 17])
    assert renders.images(some).shape == (3, 64, 64, 3)
    assert renders.identities[some].tolist() == [12, 0, 1]
    people = [set(renders.identities[renders.split(s)]) for s in ("train", "validation", "test")]
    assert sum(len(p) for p in people) == len(set.union(*people)) == 13


def test_unfinished_renders_are_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(DeidError, match="make pretrain"):
        Renders(tmp_path)


def test_augmented_points_stay_on_what_they_mark() -> None:
    dots = np.zeros((8, 64, 64, 3), np.uint8)
    dots[:, 19:21, 39:41] = 255
    images, maps = augment(dots, Jitter(4.0, 0.1, 8.0), np.random.default_rng(0))
    weight = (images.mean(1) - images.mean(1).flatten(1).median(1).values[:, None, None]).clamp(0.3)
    weight = weight - 0.3
    axis = torch.arange(64) + 0.5
    x = (weight.sum(1) * axis).sum(1) / weight.sum((1, 2))
    y = (weight.sum(2) * axis).sum(1) / weight.sum((1, 2))
    expected = maps @ np.array([40.0, 20.0, 1.0], np.float32)
    assert np.abs(torch.stack([x, y], 1).numpy() - expected).max() < 0.6


def test_margins_lower_only_the_true_class() -> None:
    cosines = torch.tensor([[0.5, 0.2], [0.1, -0.3]])
    labels = torch.tensor([0, 1])
    cosface = margin_logits(cosines, labels, Margin(0.0, 0.35, 10.0), 1.0)
    torch.testing.assert_close(cosface, torch.tensor([[1.5, 2.0], [1.0, -6.5]]))
    arcface = margin_logits(cosines, labels, Margin(0.35, 0.0, 10.0), 1.0)
    assert arcface[0, 0] == pytest.approx(10 * np.cos(np.arccos(0.5) + 0.35), abs=1e-4)
    assert arcface[0, 1] == pytest.approx(2.0)


def test_verification_counts_pairs() -> None:
    vectors = nn.functional.one_hot(torch.tensor([0, 0, 1, 1])).float()
    assert verification(vectors, np.array([0, 0, 1, 1]))["tar_at_far_1e-3"] == 1.0
    assert verification(vectors, np.array([0, 1, 0, 1]))["tar_at_far_1e-3"] == 0.0


def test_overlapping_and_nested_boxes_are_one_face() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [4, 4, 6, 6], [30, 0, 40, 10]], np.float32)
    scores = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    assert suppress(boxes, scores, 0.35, part=0.7).tolist() == [0, 3]


def test_the_detectors_targets_lie_where_the_faces_are() -> None:
    rng = np.random.default_rng(0)
    wanted = [targets(window(scene(i, "tests/windows"), rng)) for i in range(1, 6)]
    hits = [np.argwhere(t.heat == 1.0) for t in wanted]
    assert sum(len(h) for h in hits) >= 3
    for target, places in zip(wanted, hits, strict=True):
        for row, column in places:
            assert (target.distances[:4, row, column] > 0).all()


class Line(Task):
    """A line through a parabola; killed in step `stop`."""

    def __init__(self, averaging: float = 0.0, stop: int | None = None) -> None:
        schedule = Schedule(steps=6, batch_size=4, averaging=averaging, bfloat16=False)
        super().__init__("line", schedule)
        self.batches, self.stop = Batches(np.arange(32), schedule, "tests"), stop

    def build(self) -> nn.Module:
        return nn.Linear(1, 1)

    def loss(self, model: nn.Module, step: int) -> Tensor:
        if step == self.stop:
            raise KeyboardInterrupt
        x = torch.from_numpy(self.batches(step)).float()[:, None] / 32
        error: Tensor = model(x) - x.square()
        return error.square().mean()

    def measure(self, model: nn.Module) -> tuple[nn.Module, Card]:
        return model, {}


@pytest.mark.parametrize("averaging", [0.0, 0.9])
def test_training_resumes_from_its_checkpoint_with_the_same_result(
    averaging: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deid.worlds.training_loop.CHECKPOINT_SECONDS", 0.0)
    train(Line(averaging), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(Line(averaging, stop=4), tmp_path / "killed")
    train(Line(averaging), tmp_path / "killed")
    weights = [(tmp_path / n / "line.safetensors").read_bytes() for n in ("whole", "killed")]
    assert weights[0] == weights[1]


def test_averaged_weights_are_the_moving_average_of_all_steps() -> None:
    run, mean = Run(Line(averaging=0.5)), torch.zeros(1, 1)
    for step in range(6):
        run.advance()
        decay = min(0.5, (1 + step) / (10 + step)) if step else 0.0
        mean = mean.lerp(run.model.get_parameter("weight").detach(), 1 - decay)
    torch.testing.assert_close(run.trained.get_parameter("weight"), mean)


def test_the_learning_rate_warms_up_and_decays_to_nothing() -> None:
    rates = [Schedule(steps=100).rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] < 0.001


def test_an_epoch_shows_every_picture_once_in_another_order() -> None:
    batches = Batches(np.arange(12), Schedule(steps=6, batch_size=4), "tests")
    rows = [batches(step) for step in range(6)]
    first, second = np.concatenate(rows[:3]), np.concatenate(rows[3:])
    assert sorted(first) == sorted(second) == list(range(12))
    assert first.tolist() != second.tolist()


def test_every_network_of_a_world_goes_to_its_device() -> None:
    own = toy_world.__wrapped__()  # of the cached one, others need the weights
    world = replace(own, standard=ToyPerceptual("standard")).to(torch.device("meta"))
    networks = [getattr(world, field.name) for field in fields(world)]
    for network in (*networks, *world.held_out.values()):
        if isinstance(network, nn.Module):
            assert {tensor.device.type for tensor in network.state_dict().values()} <= {"meta"}
    assert world.device.type == "meta"
