"""Rivals that are trained: their objectives by hand, in the toy world, and the networks in git."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from deid.anonymize import RIVALS as BUILT
from deid.anonymize.base import Anonymizer, Guarded
from deid.anonymize.rivals import learned
from deid.anonymize.rivals.alae import ALAE
from deid.anonymize.rivals.beta_vae import ResampledFactors
from deid.anonymize.rivals.infogan import RedrawnCodes
from deid.anonymize.rivals.learned import Rebuilding, Swapping, load_trained
from deid.errors import DeidError
from deid.nets.alae import Autoencoder
from deid.nets.beta_vae import LATENT, BetaVAE
from deid.nets.infogan import CATEGORICAL, CONTINUOUS, VALUES, InfoGAN, Posterior
from deid.params import load_params
from deid.pixels import to_tensor
from deid.training.rivals.__main__ import TASKS
from deid.training.rivals.alae import r1, reciprocity
from deid.training.rivals.beta_vae import SIGMA, carriers, kl_divergence, negative_elbo
from deid.training.rivals.infogan import Drawn, information
from deid.training.rivals.pictures import PictureSettings
from deid.training.rivals.task import RivalTask
from deid.worlds import load_world
from deid.worlds.cards import write_card
from deid.worlds.training_loop import Run
from deid.worlds.world import World
from tests.dvc_deps import HARMLESS, reached
from tests.test_layers import ROOT, modules
from tests.toy import toy_world

FOLDER = ROOT / "data/rivals"
STAGES = yaml.safe_load((FOLDER / "dvc.yaml").read_text())["stages"]
PARAMS = yaml.safe_load((FOLDER / "params.yaml").read_text())
CODES_OF_STAGES = sorted({entry["code"] for entry in PARAMS["rivals"].values()})
WORLD = toy_world()
SEEDS = [3, 1, 4]


def untrained(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(1)
    return build().eval().requires_grad_(False)


def autoencoder() -> Autoencoder:
    return Autoencoder(WORLD.generator)  # type: ignore[arg-type]


def beta_vae() -> BetaVAE:
    """Untrained; half of its factors carry the identity, and each shows."""
    network = untrained(BetaVAE)
    assert isinstance(network, BetaVAE)
    network.identity_factors[: LATENT // 2] = 1.0
    return network


RIVALS: dict[str, Anonymizer] = {
    "alae": ALAE(WORLD, untrained(autoencoder)),  # type: ignore[arg-type]
    "infogan": RedrawnCodes(WORLD, untrained(InfoGAN)),  # type: ignore[arg-type]
    "beta-vae": ResampledFactors(WORLD, beta_vae()),
}
"""Of untrained networks, in the toy world."""


@pytest.fixture(scope="module")
def faces() -> Tensor:
    z = torch.randn(3, WORLD.generator.z_dim, generator=torch.Generator().manual_seed(5))
    return WORLD.generator.synthesis(WORLD.generator.mapping(z))


# What they do with faces.


@pytest.mark.parametrize("name", RIVALS)
@pytest.mark.parametrize("side", [64, 96])
def test_a_learned_rival_keeps_shape_and_range_and_goes_by_face_and_seed_alone(
    name: str, side: int, faces: Tensor
) -> None:
    rival = Guarded(RIVALS[name], name)
    given = nn.functional.interpolate(faces, size=(side, side), mode="bilinear")
    output = rival(given, SEEDS)
    assert output.shape == given.shape
    assert output.abs().max() <= 1.0
    assert torch.allclose(rival(given[1:2], SEEDS[1:2]), output[1:2], atol=1e-3)
    assert not torch.equal(rival(given[1:2], [8]), output[1:2])


@pytest.mark.parametrize("name", RIVALS)
def test_no_learned_rival_asks_a_network_that_judges(name: str, faces: Tensor) -> None:
    def judge(*_: object) -> Tensor:
        raise AssertionError("asked by a rival")

    world = replace(WORLD, held_out=dict.fromkeys(WORLD.held_out, judge), metric_features=judge)
    untouched = RIVALS[name]
    rival = type(untouched)(world, untouched.network)  # type: ignore[call-arg, attr-defined]
    assert rival(faces, SEEDS).shape == faces.shape


@pytest.mark.parametrize("name", ["alae", "beta-vae"])
def test_who_swaps_a_face_with_itself_rebuilds_it(name: str, faces: Tensor) -> None:
    rival = RIVALS[name]
    assert isinstance(rival, Swapping)
    assert isinstance(rival, Rebuilding)
    assert torch.allclose(rival.swap(faces, faces), rival.reconstruct(faces), atol=1e-6)
    other = rival.swap(faces.roll(1, 0), faces)
    assert not torch.equal(other, rival.reconstruct(faces))


def test_infogan_has_no_encoder_and_claims_none() -> None:
    assert not isinstance(RIVALS["infogan"], Swapping)
    assert not isinstance(RIVALS["infogan"], Rebuilding)


def test_alae_keeps_the_faces_pose_layers_and_takes_the_donors_others(faces: Tensor) -> None:
    rival = RIVALS["alae"]
    assert isinstance(rival, ALAE)
    own, theirs = (rival.network.encode(each) for each in (faces[:1], faces[1:2]))
    ws = torch.stack([own, own, *[theirs] * (WORLD.generator.num_ws - 2)], 1)
    expected = rival.network.decode(ws).clamp(-1, 1)
    assert torch.allclose(rival.swap(faces[1:2], faces[:1]), expected, atol=1e-6)


def test_beta_vae_resamples_identity_factors_only(faces: Tensor) -> None:
    rival = RIVALS["beta-vae"]
    assert isinstance(rival, ResampledFactors)
    decoded: list[Tensor] = []
    network = beta_vae()
    original = network.decode
    network.decode = lambda z: (decoded.append(z), original(z))[1]  # type: ignore[method-assign]
    replace(rival, network=network)(faces, SEEDS)
    mean, _ = network.encode(faces)
    assert torch.allclose(decoded[0][:, LATENT // 2 :], mean[:, LATENT // 2 :])
    assert (decoded[0][:, : LATENT // 2] != mean[:, : LATENT // 2]).all()


# Their objectives.


def test_kl_of_two_gaussians_is_that_of_torch() -> None:
    mean, log_variance = torch.tensor([[0.3, -2.0]]), torch.tensor([[0.5, -1.0]])
    one = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    by_torch = torch.distributions.kl_divergence(one, torch.distributions.Normal(0.0, 1.0))
    assert torch.allclose(kl_divergence(mean, log_variance), by_torch)
    assert kl_divergence(torch.zeros(1, 1), torch.zeros(1, 1)) == 0.0


def test_beta_weighs_the_divergence_against_the_error_in_nats() -> None:
    images, rebuilt = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), SIGMA)
    kl = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    assert float(negative_elbo(images, rebuilt, kl, 4.0)) == pytest.approx(48 / 2 + 4 * 2.0)


def test_identity_factors_are_the_fewest_that_make_half_of_the_movement() -> None:
    assert carriers(torch.tensor([0.1, 0.4, 0.3, 0.2])).tolist() == [0.0, 1.0, 1.0, 0.0]
    assert carriers(torch.tensor([0.0, 0.9, 0.1])).tolist() == [0.0, 1.0, 0.0]


def test_the_bound_is_the_codes_entropy_where_q_knows_them_and_nothing_where_it_does_not() -> None:
    drawn = Drawn.of(64, torch.Generator().manual_seed(0))
    nothing = torch.zeros(64, CATEGORICAL, VALUES)
    unsure = Posterior(nothing, torch.zeros(64, CONTINUOUS), torch.zeros(64, CONTINUOUS))
    categories, numbers = information(unsure, drawn)
    assert float(categories) == pytest.approx(0.0, abs=1e-4)
    assert float(numbers) < 0.0
    known = 50.0 * drawn.codes[:, :-CONTINUOUS].unflatten(1, (CATEGORICAL, VALUES))
    sure = Posterior(known, drawn.numbers, torch.full((64, CONTINUOUS), -4.0))
    categories, numbers = information(sure, drawn)
    assert float(categories) == pytest.approx(CATEGORICAL * math.log(VALUES), abs=1e-3)
    by_hand = CONTINUOUS * (math.log(2) + 2.0 - 0.5 * math.log(2 * math.pi))
    assert float(numbers) == pytest.approx(by_hand, abs=1e-4)
    assert torch.equal(sure.best, drawn.codes)


def test_reciprocity_teaches_the_encoder_and_not_the_mapping() -> None:
    w, again = torch.ones(2, 4, requires_grad=True), torch.zeros(2, 4, requires_grad=True)
    loss = reciprocity(w, again)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 1.0
    assert w.grad is None
    assert again.grad is not None


def test_r1_is_half_the_squared_gradient() -> None:
    assert float(r1(torch.full((2, 3, 2, 2), 2.0))) == pytest.approx(0.5 * 12 * 4)


def test_a_w_at_every_layer_is_that_w() -> None:
    network = untrained(autoencoder)
    assert isinstance(network, Autoencoder)
    w = torch.randn(2, WORLD.generator.w_dim, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        network.decode(w), network.decode(torch.stack([w] * WORLD.generator.num_ws, 1))
    )


# How they are trained.


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 48 toy people, as the stage that draws them leaves them."""
    folder = tmp_path_factory.mktemp("pictures")
    drawn = WORLD.test_faces(48, 1, 3)
    np.save(folder / "pixels.npy", drawn.pixels)
    np.save(folder / "landmarks.npy", np.zeros((48, 68, 2), np.float32))
    np.save(folder / "codes.npy", np.zeros((48, WORLD.identity.dim), np.float32))
    settings = PictureSettings(WORLD.weights_sha256, people=48, views=1)
    (folder / "settings.json").write_text(json.dumps(vars(settings)))
    return folder


def tiny(name: str, data: Path) -> RivalTask:
    """The training in git, of batches of four."""
    task = TASKS[name](WORLD, data, 3)
    return type(task)(name, WORLD, data, replace(task.schedule, batch_size=4))


@pytest.mark.parametrize("name", RIVALS)
@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_weights(
    name: str, data: Path, tmp_path: Path
) -> None:
    whole, resumed = (Run(tiny(name, data)) for _ in range(2))
    whole.advance()
    whole.save(tmp_path / "checkpoint.pt")
    whole.advance()
    resumed.load(tmp_path / "checkpoint.pt")
    resumed.advance()
    for key, tensor in whole.trained.state_dict().items():
        assert torch.equal(tensor, resumed.trained.state_dict()[key]), key


@pytest.mark.parametrize("name", RIVALS)
def test_what_is_kept_of_a_training_is_what_the_method_loads(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tiny(name, data)
    run = Run(task)
    run.advance()
    with torch.no_grad():
        kept, card = task.measure(run.trained.eval())
    assert all(math.isfinite(value) for value in card["figures"].values())
    write_card(tmp_path / "toy", name, kept, card)
    monkeypatch.setattr(learned, "TRAINED", tmp_path)
    build = {"alae": autoencoder, "infogan": InfoGAN, "beta-vae": BetaVAE}[name]
    loaded = load_trained(name, WORLD, build)
    assert (tmp_path / f"toy/{name}.safetensors").stat().st_size <= 2.5e6
    for key, tensor in kept.state_dict().items():
        assert torch.allclose(loaded.state_dict()[key].float(), tensor.float()), key


def test_each_phase_of_a_game_moves_its_own_networks_only(data: Path) -> None:
    parts = {
        "alae": ["autoencoder.encoder discriminator", "autoencoder.decoder mapping", "autoencoder"],
        "infogan": ["recognition", "generator"],
    }
    for name, phases in parts.items():
        run = Run(tiny(name, data))
        for phase, moved in zip(run.phases, phases, strict=True):
            before = {key: value.clone() for key, value in run.model.named_parameters()}
            run._minimize(phase)
            changed = {
                key for key, value in run.model.named_parameters() if (value != before[key]).any()
            }
            assert changed
            assert all(key.startswith(tuple(moved.split())) for key in changed)


def test_a_rival_that_was_not_trained_in_a_world_is_refused_with_the_worlds_that_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned, "TRAINED", tmp_path)
    with pytest.raises(DeidError, match="not trained in the world toy, nor in any other"):
        load_trained("alae", WORLD, autoencoder)
    write_card(tmp_path / "mini", "alae", autoencoder(), {})
    with pytest.raises(DeidError, match="not trained in the world toy, only in mini"):
        load_trained("alae", WORLD, autoencoder)


def test_a_changed_weight_file_of_a_rival_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned, "TRAINED", tmp_path)
    write_card(tmp_path / "toy", "beta-vae", BetaVAE(), {"world": WORLD.trained_for})
    file = tmp_path / "toy/beta-vae.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(DeidError, match="its card says"):
        load_trained("beta-vae", WORLD, BetaVAE)


def test_a_rival_that_was_trained_with_other_networks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned, "TRAINED", tmp_path)
    write_card(tmp_path / "toy", "beta-vae", BetaVAE(), {"world": "another En_id"})
    with pytest.raises(DeidError, match="trained on other weights of the world toy"):
        load_trained("beta-vae", WORLD, BetaVAE)


def test_a_training_is_not_taken_up_again_on_other_pictures(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(data, other)
    settings = PictureSettings(WORLD.weights_sha256, people=24, views=2)
    (other / "settings.json").write_text(json.dumps(vars(settings)))
    one, two = (tiny("beta-vae", folder).recipe() for folder in (data, other))
    assert one != two
    assert one["world"] == WORLD.trained_for


def code_of(entry: str) -> set[str]:
    """The files that shape what module `entry` makes, as data/rivals/dvc.yaml names them."""
    known = modules()
    files = (known[module].relative_to(ROOT) for module in reached([entry], set(HARMLESS)))
    return {f"../../{file.as_posix()}" for file in files}


def declared(stage: str) -> list[str]:
    return [dep for dep in STAGES[stage]["do"]["deps"] if "{" not in dep]


def test_pictures_depend_on_the_code_that_draws_them() -> None:
    assert declared("pictures") == sorted(code_of("deid.training.rivals.pictures"))


@pytest.mark.parametrize("code", CODES_OF_STAGES)
def test_a_rivals_stage_depends_on_the_code_that_it_runs(code: str) -> None:
    own = {f"../../deid/nets/{code}.py", f"../../deid/training/rivals/{code}.py"}
    assert code_of(f"deid.training.rivals.{code}") - set(declared("rival")) == own


def test_rivals_stages_depend_on_nothing_else() -> None:
    run = [code_of(f"deid.training.rivals.{code}") for code in CODES_OF_STAGES]
    assert declared("rival") == sorted(set(declared("rival")) & set().union(*run))


def test_every_learned_rival_is_trained_where_it_can_be_and_published() -> None:
    trained = {(entry["rival"], entry["world"]) for entry in PARAMS["rivals"].values()}
    views = {world: pictures["views"] for world, pictures in PARAMS["pictures"].items()}
    assert trained == {
        (rival, world)
        for rival in TASKS
        for world in PARAMS["worlds"]
        # CIAGAN learns from several pictures of a person, ALAE from a generator of 64 px.
        if views[world] > 1 or rival not in ("ciagan", "alae")
    }
    assert PARAMS["pictures"].keys() == PARAMS["worlds"].keys()
    for key, entry in PARAMS["rivals"].items():
        assert key == f"{entry['world']}-{entry['rival']}"
        assert entry["profile"] == PARAMS["pictures"][entry["world"]]["profile"]


def test_what_is_in_git_was_trained_as_params_say() -> None:
    for entry in PARAMS["rivals"].values():
        card = learned.TRAINED / entry["world"] / f"{entry['rival']}.json"
        if card.exists():  # else the method says that it was not trained in this world
            assert json.loads(card.read_text())["training"]["steps"] == entry["steps"], card


# The networks in git, in the world mini.


def needs(name: str) -> pytest.MarkDecorator:
    """Until its training is in git."""
    there = (learned.TRAINED / "mini" / f"{name}.json").is_file()
    return pytest.mark.skipif(not there, reason=f"{name} is not trained in mini")


@pytest.fixture(scope="module")
def mini() -> World:
    return load_world(load_params(ROOT / "profiles/mini.yaml").world)


@pytest.fixture(scope="module")
def people(mini: World) -> Tensor:
    """Eight whom no network was trained on."""
    return to_tensor(mini.test_faces(8, 1, 77).pixels)


def likeness(world: World, a: Tensor, b: Tensor) -> float:
    return float((world.identity(a) * world.identity(b)).sum(1).mean())


@needs("alae")
def test_trained_alae_gives_back_the_face_and_swaps_towards_the_donor(
    mini: World, people: Tensor
) -> None:
    rival = BUILT["alae"](mini)
    assert isinstance(rival, ALAE)
    donors = people.roll(1, 0)
    rebuilt, swapped = rival.reconstruct(people), rival.swap(donors, people)
    assert likeness(mini, rebuilt, people) > likeness(mini, rebuilt, donors) + 0.1
    assert likeness(mini, swapped, donors) > likeness(mini, swapped, people)
    assert (rebuilt - people).square().mean() < 0.7 * (donors - people).square().mean()


@needs("beta-vae")
def test_trained_beta_vae_loses_the_identity_with_its_factors_and_keeps_the_rest(
    mini: World, people: Tensor
) -> None:
    rival = BUILT["beta-vae"](mini)
    assert isinstance(rival, ResampledFactors)
    assert 0 < int(rival.network.identity_factors.sum()) < LATENT
    rebuilt, drawn = rival.reconstruct(people), rival(people, list(range(8)))
    assert likeness(mini, drawn, people) < likeness(mini, rebuilt, people) - 0.1
    assert (rebuilt - people).square().mean() < (drawn - people).square().mean()


@needs("infogan")
def test_trained_infogan_draws_what_the_codes_say(mini: World, people: Tensor) -> None:
    rival = BUILT["infogan"](mini)
    assert isinstance(rival, RedrawnCodes)
    _, seen = rival.network.recognition(people)
    _, again = rival.network.recognition(rival(people, list(range(8))))
    same = (again.logits.argmax(2) == seen.logits.argmax(2)).float().mean()
    assert same > 0.3  # by chance 0.1
