"""The ffhq world at full size: public layouts, no real weights, and no code path of its own.

The files are written in their public layouts from the fixtures' recipe, which fills every tensor by
its name; the small real ones (MTCNN, foamliu's recognizer) are used as they are.
"""

import importlib.util
import json
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deid.anonymize import ModelPaths
from deid.batch.bundle import Bundle
from deid.batch.pipeline import build_pipeline
from deid.batch.project import open_pipeline
from deid.batch.run import deidentify_path
from deid.batch.settings import RunSettings
from deid.errors import DeidError
from deid.evaluate.report import report
from deid.evaluate.run import evaluate
from deid.latents.sample import sample_from
from deid.latents.shards import LatentDataset
from deid.params import (
    AnonymizeParams,
    EvaluateParams,
    Params,
    SampleParams,
    StageOneParams,
    StageTwoParams,
    WorldParams,
    load_params,
)
from deid.registry.bundle import bundle_files, content_sha256, read_bundle, write_bundle
from deid.storage.staging import file_sha256
from deid.training import held_out, sheets
from deid.training.stage_one import train_stage_one
from deid.training.stage_two import train_stage_two
from deid.weights import store
from deid.worlds import load_world
from deid.worlds.ffhq import world as ffhq
from deid.worlds.ffhq.world import load_ffhq_world
from deid.worlds.public.five import FiveLandmarks
from deid.worlds.public.test_faces import photographed_faces
from deid.worlds.world import World
from tests.conftest import ROOT

pytestmark = pytest.mark.timeout(1200)  # full size: minutes, and more where other work runs

WORLD = WorldParams(
    name="ffhq",
    truncation=0.7,
    files={
        "generator": ("stylegan2-ffhq256-rosinality",),
        "identity": ("vggface2-resnet50-cydonia",),
        "held_out": ("foamliu-mobilefacenet", "facenet-vggface2"),
    },
)
SAMPLE = SampleParams(count=3, shard_size=2, batch_size=2, workers=1)
ONE = StageOneParams(steps=1, batch_size=2, threads=2, mapping_widths=(64, 64, 64))
TWO = StageTwoParams(steps=1, batch_size=2, threads=2, adversarial_widths=(64, 64, 64))
FEW = AnonymizeParams(pgd_steps=1, swap_tries=1)
JUDGED = EvaluateParams(identities=2, views=1, seeds=1, batch_size=2)
"""Two people: enough for every figure to be a number."""


def recipe(assets: Path, fixture: str) -> dict[str, torch.Tensor]:
    """The full-size state of a fixture; what the constructor sets itself is 0."""
    folder = assets / "fixtures"
    spec = importlib.util.spec_from_file_location("recipe", folder / "recipe.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows = json.loads((folder / f"{fixture}_recipe/inventory.json").read_text())
    return {
        name: torch.from_numpy(module.fill(name, shape, kind))
        for name, shape, kind in rows
        if kind not in ("const", "int")
    }


def write_files(assets: Path, folder: Path) -> None:
    """Every file that `WORLD` needs, under its catalog name."""
    generator = recipe(assets, "rosinality_stylegan2_256_cm2")
    torch.save({"g_ema": generator}, folder / "550000.pt")
    arrays = {k: v.numpy() for k, v in recipe(assets, "vggface2_resnet50_cydonia").items()}
    (folder / "resnet50_ft_weight.pkl").write_bytes(pickle.dumps(arrays, protocol=2))
    bare = {
        "torchvision_inceptionv3": "inception_v3_google-0cc3c7bd.pth",
        "facenet_irv1_vggface2": "20180402-114759-vggface2.pt",
        "fid_inception": "pt_inception-2015-12-05-6726825d.pth",
    }
    for fixture, file in bare.items():
        torch.save(recipe(assets, fixture), folder / file)
    # `net.slice2.3.weight` of the package is torchvision's `features.3.weight`.
    backbones = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}
    for name, file in backbones.items():
        backbone = {
            f"features.{name.split('.', 2)[2]}": value
            for name, value in recipe(assets, f"lpips_{name}").items()
            if name.startswith("net.")
        }
        torch.save(backbone, folder / file)
    landmarks = {"state_dict": recipe(assets, "landmark_mobilefacenet68")}
    torch.save(landmarks, folder / "mobilefacenet_model_best.pth.tar")
    for file in ("pnet.pt", "rnet.pt", "onet.pt", "foamliu_mobilefacenet.pt"):
        shutil.copyfile(assets / "weights" / file, folder / file)


def unpublished(entry: object, path: Path, place: object) -> str:
    """Instead of the catalog's hashes, which files from a recipe cannot have."""
    return file_sha256(path)


def recipe_world(folder: Path) -> World:
    """The world of `folder`; also in a sampling process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "check", unpublished)
        return load_ffhq_world(WORLD, store.Store(folder))


@dataclass(frozen=True)
class Lab:
    """A folder in which everything ran, and the world it ran on."""

    root: Path
    world: World

    @property
    def models(self) -> ModelPaths:
        return ModelPaths(self.root / "one", self.root / "two")


@pytest.fixture(scope="module")
def lab(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Sampled, trained for a step or two, evaluated: all by the functions that the stages call."""
    root = tmp_path_factory.mktemp("ffhq")
    weights = root / "weights"
    weights.mkdir()
    write_files(assets, weights)
    loaded = cache(lambda params: recipe_world(weights))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
        patch.setattr(ffhq, "load_ffhq_world", lambda params: loaded(None))
        patch.setattr(held_out, "PEOPLE", 1)
        patch.setattr(sheets, "COLUMNS", 1)
        sample_from(SAMPLE, partial(recipe_world, weights), root / "latents")
        train_stage_one(ONE, WORLD, root / "latents", root / "one")
        train_stage_two(TWO, WORLD, root / "latents", root / "one", root / "two")
        evaluate(JUDGED, FEW, WORLD, root / "one", root / "two", root / "reports")
        report(JUDGED, FEW, WORLD, root / "reports")
        yield Lab(root, load_world(WORLD))


def test_the_pairs_are_the_generators(lab: Lab) -> None:
    pairs = LatentDataset(lab.root / "latents")
    assert pairs.images(np.arange(3)).shape == (3, 256, 256, 3)
    with torch.no_grad():
        again = lab.world.generator.synthesis(torch.from_numpy(pairs.w(np.array([2]))))
    shown = (again.clamp(-1, 1) + 1) * 127.5
    difference = shown[0].permute(1, 2, 0).numpy() - pairs.images(np.array([2]))[0]
    assert abs(difference).max() <= 1.0


def test_every_figure_of_the_tables_is_a_number(lab: Lab) -> None:
    metrics = json.loads((lab.root / "reports/metrics.json").read_text())
    figures = [
        part["mean"]
        for table in ("table1", "table2", "table3")
        for method in metrics[table].values()
        for part in method.values()
    ]
    assert len(figures) > 60
    assert np.isfinite(figures).all()
    page = (lab.root / "reports/index.html").read_text()
    assert "mini features" not in page
    assert lab.world.metric_features.lpips_label in page


@pytest.mark.parametrize("method", ["swap", "fgsm"])
def test_photographs_go_through_the_same_run(
    lab: Lab, assets: Path, tmp_path: Path, method: str
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    with Image.open(assets / "photoreal/003.jpg") as photograph:
        photograph.resize((320, 320)).save(source / "one.png")
    judge = assets / "weights/foamliu_mobilefacenet.onnx"
    settings = RunSettings(method=method, recognizers=(f"foamliu={judge}",), anonymize=FEW)
    pipeline = build_pipeline(settings, lab.world, lab.models)
    summary = deidentify_path(source, tmp_path / "out", pipeline)
    assert summary.counts == {"written": 1}
    before, after = (
        np.asarray(Image.open(p / "one.png").convert("RGB"), int)
        for p in (source, tmp_path / "out")
    )
    assert abs(before - after)[140:200, 120:200].mean() > 2.0
    assert (before - after)[:8].any() == np.False_


def test_views_of_drawn_people_share_their_coarse_layers(lab: Lab) -> None:
    faces = lab.world.test_faces(2, 2, 0)
    assert faces.pixels.shape == (4, 256, 256, 3)
    assert faces.identities.tolist() == [0, 0, 1, 1]
    other = lab.world.test_faces(2, 2, 1)
    assert (faces.pixels != other.pixels).mean() > 0.5


def test_a_registered_model_holds_no_public_weights(lab: Lab, tmp_path: Path) -> None:
    bundle = Bundle(lab.root / "one", lab.root / "two", WORLD, FEW)
    assert {name.split("/")[0] for name in bundle_files(bundle)} == {"stage_one", "stage_two"}
    write_bundle(bundle, tmp_path / "bundle")
    again = read_bundle(tmp_path / "bundle")
    assert again.world.name == "ffhq"
    assert again.world.files == WORLD.files
    assert content_sha256(again) == content_sha256(bundle)


def test_landmarks_may_come_from_mtcnn(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they do in the commercial variant."""
    monkeypatch.setattr(store, "check", unpublished)
    chosen = WORLD.model_copy(update={"files": WORLD.files | {"landmarks": ("mtcnn-onet",)}})
    network = ffhq.Files("ffhq", chosen, store.Store(lab.root / "weights")).landmarks()
    assert isinstance(network, FiveLandmarks)
    face = torch.zeros(1, 3, 256, 256, requires_grad=True)
    (slope,) = torch.autograd.grad(network(face).sum(), face)
    assert slope.abs().max() > 0


def test_the_commercial_variant_refuses_what_its_licenses_forbid(tmp_path: Path) -> None:
    forbidden = WORLD.model_copy(update={"commercial": True})
    with pytest.raises(DeidError, match=r"stylegan2-ffhq256-rosinality.*license"):
        load_ffhq_world(forbidden, store.Store(tmp_path))


@pytest.mark.parametrize(
    ("spec", "named"),
    [("scrfd={}/det_500m.onnx", "scrfd-500m.*license"), ("yunet={}/README.md", "not in the cat")],
)
def test_a_run_of_the_commercial_variant_refuses_such_files_too(
    assets: Path, tmp_path: Path, spec: str, named: str
) -> None:
    bundle = Bundle(tmp_path, tmp_path, WorldParams(name="ffhq", commercial=True), FEW)
    asked = RunSettings(method="mask", detectors=(spec.format(assets / "weights"),))
    with pytest.raises(DeidError, match=named):
        open_pipeline(bundle, asked)


def test_a_missing_file_is_named_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(DeidError, match=r"ffhq-res256-mirror.*deid weights fetch"):
        load_ffhq_world(WorldParams(name="ffhq"), store.Store(tmp_path))


def test_the_profile_is_a_whole_set_of_parameters() -> None:
    profile = load_params(ROOT / "profiles/ffhq.yaml")
    assert profile.world.name == "ffhq"
    assert profile.stage_one.mapping_widths == (2048, 1024, 512)
    assert profile.register_ == Params().register_


class TestPhotographedFaces:
    def pictures(self, folder: Path, people: dict[str, int]) -> Path:
        for n, (person, count) in enumerate(people.items()):
            for i in range(count):
                (folder / person).mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (40, 40), (n * 50, i * 20, 0)).save(folder / person / f"{i}.png")
        return folder

    def test_people_have_the_views_asked_for(self, tmp_path: Path) -> None:
        folder = self.pictures(tmp_path, {"a": 3, "b": 1, "c": 2})
        faces = photographed_faces(folder, 16)(2, 2, 0)
        assert faces.pixels.shape == (4, 16, 16, 3)
        assert {int(p[0, 0, 0]) for p in faces.pixels} == {0, 100}  # b has too few
        assert all(len({int(p[0, 0, 0]) for p in faces.pixels[i : i + 2]}) == 1 for i in (0, 2))
        assert len({p.tobytes() for p in faces.pixels}) == 4

    def test_too_few_are_an_error(self, tmp_path: Path) -> None:
        folder = self.pictures(tmp_path, {"a": 2})
        with pytest.raises(DeidError, match="1 people with 2 pictures"):
            photographed_faces(folder, 16)(2, 2, 0)
        with pytest.raises(DeidError, match="no such folder"):
            photographed_faces(tmp_path / "none", 16)(2, 2, 0)
