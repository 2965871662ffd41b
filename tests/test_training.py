"""Both stages on a toy world: who learns, who never does, and that a killed run loses nothing."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deid.diversity import diversify, draw_changes
from deid.errors import DeidError
from deid.model import Deidentifier
from deid.params import WorldParams
from deid.pixels import to_tensor
from deid.seeds import torch_generator
from deid.training import stage_one as stage_one_module
from deid.training import stage_two as stage_two_module
from deid.training.held_out import PEOPLE, VIEWS, stage_one_figures, stage_two_figures
from deid.training.stage_one import StageOne, train_stage_one
from deid.training.stage_two import StageTwo
from deid.worlds.donors import DonorBank
from deid.worlds.world import World
from tests.toy import RESOLUTION, ToyContours, ToyEmbedder, draw_pairs, toy_world
from tests.toy_training import ONE, TWO, changed_params, recorded, train_one, train_two

KILLED_AT = 17  # seven steps after a checkpoint
DIES = """
import os, signal, sys
from pathlib import Path
from tests.test_training import KILLED_AT, StageOne
from tests.toy_training import train_one, use_toy_world
step = StageOne.step
def dying(self, index):
    if index == KILLED_AT:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, index)
StageOne.step = dying
use_toy_world()
train_one(Path(sys.argv[1]), "killed")
"""


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deid.tracking.tracked_run", recorded)
    for module in (stage_one_module, stage_two_module):
        monkeypatch.setattr(module, "load_world", lambda _: toy_world())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 64 pairs and an undisturbed training of both stages."""
    root = tmp_path_factory.mktemp("training")
    draw_pairs(root / "latents")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deid.tracking.tracked_run", recorded)
        for module in (stage_one_module, stage_two_module):
            patch.setattr(module, "load_world", lambda _: toy_world())
        train_one(root, "one")
        train_two(root, "two")
    return root


def values(*modules: nn.Module) -> dict[str, Tensor]:
    return {
        f"{number}.{name}": tensor.clone()
        for number, module in enumerate(modules)
        for name, tensor in module.state_dict().items()
    }


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
    return any(not torch.equal(before[name], after[name]) for name in before)


def frozen_networks() -> list[Any]:
    world = toy_world()
    return [
        world.generator,
        world.identity,
        world.expression_trunk,
        world.landmarks,
        world.perceptual,
        *world.held_out.values(),
    ]


def trainable_stage_one(root: Path) -> StageOne:
    return StageOne(ONE, toy_world(), root / "latents")


def test_stage_one_trains_the_expression_encoder_m_and_d_w(root: Path) -> None:
    stage = trainable_stage_one(root)
    model = stage.model
    parts = {"En_expr": model.expression_encoder, "M": model.mapping, "D_W": stage.discriminator}
    before = {name: values(part) for name, part in parts.items()}
    stage.step(0)
    for name, part in parts.items():
        assert changed(before[name], values(part)), name


@pytest.mark.parametrize("stage_name", ["one", "two"])
def test_frozen_networks_never_get_a_gradient_and_never_change(root: Path, stage_name: str) -> None:
    before = values(*frozen_networks())
    stage: StageOne | StageTwo
    if stage_name == "one":
        stage = trainable_stage_one(root)
    else:
        stage = StageTwo(TWO, toy_world(), root / "latents", root / "one")
    for index in range(3):
        stage.step(index)
    for network in frozen_networks():
        for parameter in network.parameters():
            assert parameter.grad is None
            assert not parameter.requires_grad
    assert not changed(before, values(*frozen_networks()))


def test_the_adversarial_updates_are_separate(root: Path) -> None:
    stage = trainable_stage_one(root)
    stage._set_rates(20)
    batch, real = stage._batch(1, same=False)
    code = stage.model.code(batch.identity_faces, batch.attribute_faces).detach()
    model, discriminator = values(stage.model), values(stage.discriminator)
    stage._discriminator_update(real, code, 0)
    assert not changed(model, values(stage.model))
    assert changed(discriminator, values(stage.discriminator))

    discriminator, encoder = values(stage.discriminator), values(stage.model.expression_encoder)
    stage._adversarial_update(code)
    assert changed(model, values(stage.model))
    assert not changed(encoder, values(stage.model.expression_encoder))
    assert not changed(discriminator, values(stage.discriminator))


def test_only_same_face_steps_reconstruct(root: Path) -> None:
    stage = trainable_stage_one(root)
    for index in range(4):
        batch, _ = stage._batch(index, same=index % ONE.same_face_every == 0)
        losses = stage.step(index)
        one_face = torch.equal(batch.identity_faces, batch.attribute_faces)
        assert ("reconstruct" in losses) == one_face == (index % 2 == 0)


def test_a_warm_start_draws_nothing_and_learns_w(root: Path, monkeypatch: Any) -> None:
    params = changed_params(ONE, {"steps": 100, "warm_steps": 80, "warm_batch_size": 16})
    stage = StageOne(params, toy_world(), root / "latents")
    faces = to_tensor(stage.pairs.images(np.arange(64)))
    wanted = stage.model.standardize(torch.from_numpy(stage.pairs.w(np.arange(64))))

    @torch.no_grad()
    def error() -> float:
        mapped = stage.model.mapping(stage.model.code(faces, faces))
        return torch.nn.functional.mse_loss(mapped, wanted).item()

    before, discriminator = error(), values(stage.discriminator)
    monkeypatch.setattr(type(stage.world.generator), "synthesis", None)
    assert all(stage.step(index).keys() == {"warm"} for index in range(80))
    assert error() < 0.8 * before
    assert not changed(discriminator, values(stage.discriminator))
    monkeypatch.undo()
    assert "identity" in stage.step(80)  # what follows is stage one itself


def test_at_first_the_mapping_learns_alone_from_codes_that_are_computed_once(
    root: Path, monkeypatch: Any
) -> None:
    steps = {"steps": 100, "warm_steps": 80, "mapping_steps": 60, "mapping_batch_size": 32}
    stage = StageOne(changed_params(ONE, steps), toy_world(), root / "latents")
    encoder, losses = values(stage.model.expression_encoder), [stage.step(0)["warm"]]
    with monkeypatch.context() as patched:
        patched.setattr(stage.model.expression_encoder, "forward", None)
        losses += [stage.step(index)["warm"] for index in range(1, 60)]
    assert sum(losses[-20:]) < 0.9 * sum(losses[:20])
    assert not changed(encoder, values(stage.model.expression_encoder))
    stage.step(60)
    assert changed(encoder, values(stage.model.expression_encoder))


def world_with_donors() -> World:
    """The toy world with people to be like, whose looks are a picture's mean color."""
    world = toy_world()
    codes = torch.randn(40, world.identity.dim, generator=torch_generator("alike"))
    looks = torch.rand(40, 3, generator=torch_generator("alike looks"))
    bank = DonorBank(torch.nn.functional.normalize(codes, dim=1), looks)
    return replace(world, donors=bank, looks=lambda images: images.mean((2, 3)))


def test_stage_two_first_learns_the_way_to_people_who_are_alike(
    root: Path, monkeypatch: Any
) -> None:
    params = changed_params(TWO, {"steps": 100, "warm_steps": 80, "delta": 9.0})
    stage = StageTwo(params, world_with_donors(), root / "latents", root / "one")
    before = stage.alike(0).item()
    with monkeypatch.context() as patched:
        patched.setattr(type(stage.world.generator), "synthesis", None)
        assert all(stage.step(index).keys() == {"alike"} for index in range(80))
    assert stage.alike(0).item() < 0.7 * before
    assert "similarity" in stage.step(80)  # what follows is equation (12)


def test_stage_two_needs_a_bank_for_its_warm_start(root: Path) -> None:
    for needs in ({"warm_steps": 5}, {"lambda_alike": 0.5}):
        with pytest.raises(DeidError, match="no bank of donors"):
            StageTwo(changed_params(TWO, needs), toy_world(), root / "latents", root / "one")


def test_stage_two_is_not_taken_up_again_with_another_bank(root: Path) -> None:
    banks = (replace(world_with_donors(), donors_sha256=sha256) for sha256 in ("one", "two"))
    one, two = (StageTwo(TWO, world, root / "latents", root / "one").recipe() for world in banks)
    assert one != two


def test_looks_and_the_way_to_people_alike_count_where_they_have_a_weight(root: Path) -> None:
    plain = StageTwo(TWO, world_with_donors(), root / "latents", root / "one").step(0)
    params = changed_params(TWO, {"lambda_looks": 0.5, "lambda_alike": 0.25})
    losses = StageTwo(params, world_with_donors(), root / "latents", root / "one").step(0)
    assert losses.keys() - plain.keys() == {"looks", "alike"}
    added = 0.5 * losses["looks"] + 0.25 * losses["alike"]
    assert losses["total"] == pytest.approx(plain["total"] + added, abs=1e-5)


def test_rates_rise_and_fall_once_in_the_warm_start_and_once_after_it(root: Path) -> None:
    rates = {"learning_rate": 1e-4, "warm_learning_rate": 1e-3, "encoder_rate": 0.5}
    params = changed_params(ONE, {"steps": 100, "warm_steps": 50, **rates})
    stage = StageOne(params, toy_world(), root / "latents")
    given = []
    for index in (0, 20, 49, 50, 70, 99):
        stage._set_rates(index)
        encoder, mapping = (group["lr"] for group in stage.optimizer.param_groups)
        assert encoder == pytest.approx(0.5 * mapping)
        given.append(mapping)
    assert given[:3] == pytest.approx([10 * rate for rate in given[3:]])
    assert given[1] > max(given[0], given[2])


def test_a_step_in_parts_is_the_whole_step(root: Path) -> None:
    stage = trainable_stage_one(root)
    batch, _ = stage._batch(0, same=True)
    parts = list(batch.parts(2))
    assert [len(part.w) for part in parts] == [2, 2]
    assert torch.equal(torch.cat([part.w for part in parts]), batch.w)
    assert all(part.same for part in parts)


def test_lips_and_lids_count_where_a_world_has_them(root: Path) -> None:
    world = toy_world()
    without = StageOne(ONE, world, root / "latents").step(0)
    seen = replace(world, contours=ToyContours(world.landmarks))
    weights = {"lambda_contours": 2.0, "lambda_openings": 3.0}
    stage = StageOne(changed_params(ONE, weights), seen, root / "latents")
    losses = stage.step(0)
    assert "contours" not in without
    terms = {"id": "identity", "landmark": "landmark", "reconstruct": "reconstruct"}
    known = 2.0 * losses["contours"] + 3.0 * losses["openings"]
    known += sum(getattr(ONE, f"lambda_{name}") * losses[term] for name, term in terms.items())
    known += ONE.lambda_expression * losses["expression"]
    assert min(losses["contours"], losses["openings"]) > 0.0
    assert losses["total"] == pytest.approx(known, rel=1e-4)


def test_m_is_told_of_lips_and_lids(root: Path) -> None:
    """Two faces whose lips differ have two codes, though En_expr saw no difference."""
    world = toy_world()
    seen = replace(world, contours=ToyContours(world.landmarks))
    model = StageOne(ONE, seen, root / "latents").model
    faces = torch.rand(2, 3, RESOLUTION, RESOLUTION)
    told = model.code(faces, faces)[:, world.identity.dim + world.expression_dim :]
    assert torch.equal(told, seen.contours.code(faces))
    assert not torch.equal(told[0], told[1])


def test_a_same_face_step_can_aim_at_the_faces_own_w(root: Path) -> None:
    stage = StageOne(changed_params(ONE, {"lambda_latent": 1.0}), toy_world(), root / "latents")
    batch, _ = stage._batch(0, same=True)
    mapped = stage.model.mapping(stage.model.code(batch.identity_faces, batch.attribute_faces))
    wanted = torch.nn.functional.mse_loss(mapped, batch.w).item()
    assert stage.step(0)["latent"] == pytest.approx(wanted, rel=1e-5)
    assert "latent" not in stage.step(1)  # of two faces nobody knows the w


def test_stage_two_trains_m_adv_alone_and_starts_from_the_reconstruction(root: Path) -> None:
    stage = StageTwo(TWO, toy_world(), root / "latents", root / "one")
    faces = to_tensor(stage.pairs.images(np.arange(4)))
    w = stage.model.latent(faces, faces)
    assert torch.allclose(stage.model.adversarial_latent(w), w, atol=1e-5)
    before = values(stage.model.expression_encoder, stage.model.mapping)
    mapping = values(stage.mapping)
    for index in range(2):
        stage.step(index)
    assert not changed(before, values(stage.model.expression_encoder, stage.model.mapping))
    assert changed(mapping, values(stage.mapping))


def test_stage_two_lowers_the_similarity_and_stays_within_delta(root: Path) -> None:
    params = TWO.model_copy(update={"steps": 80, "similarity_floor": -1.0, "delta": 0.5})
    stage = StageTwo(params, toy_world(), root / "latents", root / "one")
    similarities = [stage.step(index)["similarity"] for index in range(params.steps)]
    assert np.mean(similarities[-10:]) < np.mean(similarities[:10]) - 0.05
    faces = to_tensor(stage.pairs.images(np.arange(32)))
    w = stage.model.latent(faces, faces)
    moved = stage.model.standardize(stage.model.adversarial_latent(w)) - stage.model.standardize(w)
    assert 0.01 < moved.abs().max().item() <= 0.5 + 1e-4


def test_stage_two_fools_all_recognizers_of_the_ensemble(root: Path) -> None:
    """Those that have no part in it are known by the person still."""
    params = TWO.model_copy(update={"steps": 80, "similarity_floor": -1.0, "delta": 0.5})
    known = {}
    for name, ensemble in (("alone", {}), ("with another", {"another": ToyEmbedder("another")})):
        world = replace(toy_world(), ensemble=ensemble)
        stage = StageTwo(params, world, root / "latents", root / "one")
        for index in range(params.steps):
            stage.step(index)
        faces = to_tensor(stage.pairs.images(np.arange(32)))
        outputs, other = stage.model.adversarial(faces), ToyEmbedder("another")
        known[name] = (other(outputs) * other(faces)).sum(1).mean().item()
    assert known["with another"] < known["alone"] - 0.02


def test_stage_one_learns_to_reconstruct(root: Path) -> None:
    params = ONE.model_copy(update={"steps": 150, "same_face_every": 1})
    stage = StageOne(params, toy_world(), root / "latents")
    losses = [stage.step(index)["reconstruct"] for index in range(params.steps)]
    assert np.mean(losses[-20:]) < 0.8 * np.mean(losses[:20])


def same_files(folder: Path, wanted: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in wanted.iterdir())
    for path in wanted.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_killed_stage_one_ends_with_the_bytes_of_an_undisturbed_one(root: Path) -> None:
    command = [sys.executable, "-c", DIES, str(root)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    killed = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (root / "killed").exists()
    assert (root / "killed.partial" / "checkpoint.pt").is_file()
    same_files(train_one(root, "killed"), root / "one")
    assert not (root / "killed.partial").exists()


def test_a_stage_two_that_failed_midway_goes_on_to_the_same_bytes(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, steps = StageTwo.step, []

    def failing(self: StageTwo, index: int) -> dict[str, float]:
        steps.append(index)
        if steps.count(KILLED_AT) == 1 and index == KILLED_AT:
            raise OSError("no space left on device")
        return step(self, index)

    monkeypatch.setattr(StageTwo, "step", failing)
    with pytest.raises(OSError, match="no space"):
        train_two(root, "failed")
    same_files(train_two(root, "failed"), root / "two")
    assert steps == [*range(KILLED_AT + 1), *range(10, TWO.steps)]  # on from the checkpoint


def test_a_stage_leaves_model_description_curves_and_sheet(root: Path) -> None:
    names = {"model.safetensors", "model.json", "losses.csv", "losses.png", "sheet.png"}
    assert {p.name for p in (root / "one").iterdir()} == names
    assert {p.name for p in (root / "two").iterdir()} == names
    header, *rows = (root / "one/losses.csv").read_text().splitlines()
    assert header.startswith("step,total,expression,identity,landmark,reconstruct")
    assert [row.split(",")[0] for row in rows] == ["20", "30"]


def test_the_trained_model_loads_and_serves_all_three_uses(root: Path) -> None:
    world = toy_world()
    model = Deidentifier.load(root / "one", root / "two", world)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    faces = to_tensor(world.test_faces(3, 1, 5).pixels)
    for pictures in (model.swap(faces.flip(0), faces), model.adversarial(faces)):
        assert pictures.shape == faces.shape
        assert pictures.abs().max() <= 1.0
    assert torch.equal(model.reconstruct(faces), model.swap(faces, faces))
    assert not torch.equal(model.adversarial(faces), model.reconstruct(faces))


def test_identity_and_expression_reach_w(root: Path) -> None:
    world = toy_world()
    model = Deidentifier.load(root / "one", None, world)
    a, b = to_tensor(world.test_faces(2, 1, 6).pixels).split(1)
    w = model.latent(a, b)
    assert not torch.allclose(w, model.latent(b, b))
    assert not torch.allclose(w, model.latent(a, a))


def test_an_adversarial_picture_needs_stage_two(root: Path) -> None:
    model = Deidentifier.load(root / "one", None, toy_world())
    with pytest.raises(DeidError, match="stage two"):
        model.adversarial(torch.zeros(1, 3, 64, 64))


def copy_of(folder: Path, target: Path) -> Path:
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_damaged_missing_or_foreign_weights_are_refused(root: Path, tmp_path: Path) -> None:
    world, two = toy_world(), root / "two"
    damaged = copy_of(root / "one", tmp_path / "damaged")
    content = bytearray((damaged / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (damaged / "model.safetensors").write_bytes(content)
    with pytest.raises(DeidError, match=r"model\.safetensors.*hash"):
        Deidentifier.load(damaged, None, world)
    (damaged / "model.safetensors").unlink()
    with pytest.raises(DeidError, match="missing"):
        Deidentifier.load(damaged, None, world)
    with pytest.raises(DeidError, match="not stage_one"):
        Deidentifier.load(two, None, world)

    foreign = copy_of(root / "one", tmp_path / "foreign")
    text = (foreign / "model.json").read_text()
    (foreign / "model.json").write_text(text.replace("0" * 64, "1" * 64))
    with pytest.raises(DeidError, match="other weights"):
        Deidentifier.load(foreign, None, world)


def test_a_stage_two_of_another_stage_one_is_refused(root: Path, tmp_path: Path) -> None:
    params = ONE.model_copy(update={"seed": 1, "steps": 2})
    train_stage_one(params, WorldParams(), root / "latents", tmp_path / "other")
    with pytest.raises(DeidError, match="another stage one"):
        Deidentifier.load(tmp_path / "other", root / "two", toy_world())


def test_a_damaged_checkpoint_is_named(root: Path, tmp_path: Path) -> None:
    stage = trainable_stage_one(root)
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    from deid.training.loop import train

    with pytest.raises(DeidError, match=r"checkpoint\.pt: damaged"):
        train(stage, tmp_path)


def test_a_loss_that_is_not_finite_stops_the_training(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deid.training.loop import train

    stage = trainable_stage_one(root)
    monkeypatch.setattr(stage, "step", lambda index: {"total": float("nan")})
    with pytest.raises(DeidError, match="step 0: loss total is nan"):
        train(stage, tmp_path)


def test_input_diversity_moves_pictures_and_keeps_gradients() -> None:
    images = torch.rand(4, 3, 64, 64, generator=torch_generator("test/images")) * 2 - 1
    images.requires_grad_()
    changes = draw_changes(4, torch_generator("test/diversity"))
    once = diversify(images, changes)
    assert torch.equal(changes, draw_changes(4, torch_generator("test/diversity")))
    assert torch.allclose(once[2:], diversify(images[2:], changes[:, 2:]), atol=1e-6)
    assert once.shape == images.shape
    assert not torch.allclose(once, images, atol=0.1)
    once.sum().backward()
    assert images.grad is not None
    assert images.grad.abs().mean() > 0.3


@pytest.mark.parametrize("figures", [stage_one_figures, stage_two_figures])
def test_a_stages_figures_are_the_same_in_small_batches(
    root: Path, figures: Callable[[Deidentifier, int], dict[str, float]]
) -> None:
    model = Deidentifier.load(root / "one", root / "two", toy_world())
    seen: list[int] = []
    hook = model.expression_encoder.register_forward_hook(lambda m, i, o: seen.append(len(o)))
    count = PEOPLE * VIEWS
    whole = figures(model, count)
    assert set(seen) == {count}
    seen.clear()
    small = figures(model, 5)
    hook.remove()
    assert set(seen) == {5, count % 5}
    assert small == pytest.approx(whole, rel=1e-4, abs=1e-6)
