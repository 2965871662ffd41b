"""Under one key a person has one new face, under another key another; the key shows nowhere."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner

from deid.anonymize import ModelPaths, build, build_swap, with_key
from deid.anonymize.pseudonyms import Pseudonyms, between
from deid.anonymize.refine import STEPS
from deid.anonymize.swap import kept_looks
from deid.api import Options
from deid.batch import project
from deid.batch.in_memory import Bounds
from deid.batch.pipeline import build_pipeline
from deid.batch.settings import RunSettings
from deid.cli.main import app
from deid.errors import DeidError
from deid.gate.fallback import build_anonymizers, fallback_chain
from deid.params import AnonymizeParams
from deid.secret import SecretKey, new_key, read_key
from deid.seeds import torch_generator
from deid.serve import work
from deid.serve.options import RequestOptions
from tests.toy import toy_world
from tests.toy_model import save_toy_model

WORLD = toy_world()
ONE, OTHER = SecretKey(b"1" * 32), SecretKey(b"2" * 32)
DIM, PEOPLE = 64, 60


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> ModelPaths:
    return save_toy_model(tmp_path_factory.mktemp("models"))


def people(count: int, name: str) -> Tensor:
    """Codes of which some directions tell more than others, as those of recognizers do."""
    random = torch_generator(name)
    spread = torch.linspace(1.0, 0.05, DIM) ** 2
    return F.normalize(torch.randn(count, DIM, generator=random) * spread, dim=1)


def pseudonyms(key: SecretKey, looks: int = 0) -> Pseudonyms:
    donors = people(400, "donors")
    return Pseudonyms.of_key(key, donors, donors[:, :looks])


def auc(a: Tensor, b: Tensor) -> float:
    """How often two rows of one person are more similar than rows of two people."""
    similarity = (a @ b.T).numpy()
    same, different = np.diag(similarity), similarity[~np.eye(len(similarity), dtype=bool)]
    return float((same[:, None] > different[None]).mean())


NONE = torch.zeros(PEOPLE, 0)


def test_views_of_a_person_share_a_pseudonym_under_one_key_and_none_across_keys() -> None:
    person = people(PEOPLE, "people")
    view = F.normalize(
        person + 0.02 * torch.randn(PEOPLE, DIM, generator=torch_generator("v")), dim=1
    )
    first, second = pseudonyms(ONE), pseudonyms(OTHER)
    assert auc(first(person, NONE, 0.9), first(view, NONE, 0.9)) > 0.99
    crossed = [
        auc(
            pseudonyms(ONE.numbered(i))(person, NONE, 0.9),
            pseudonyms(OTHER.numbered(i))(view, NONE, 0.9),
        )
        for i in range(8)
    ]
    assert abs(np.mean(crossed) - 0.5) < 0.03
    assert not torch.allclose(first(person, NONE, 0.9), second(person, NONE, 0.9), atol=0.1)


def test_a_pseudonym_is_the_same_whoever_else_is_in_the_batch() -> None:
    person, keyed = people(PEOPLE, "people"), pseudonyms(ONE)
    alone = torch.cat([keyed(row, NONE[:1], 0.4) for row in person.split(1)])
    assert torch.allclose(keyed(person, NONE, 0.4), alone, atol=1e-6)
    assert torch.equal(pseudonyms(ONE)(person, NONE, 0.4), keyed(person, NONE, 0.4))


def test_a_pseudonym_is_a_stranger_to_the_person() -> None:
    person = people(PEOPLE, "people")
    for most in (0.4, 0.0):
        given = pseudonyms(ONE)(person, NONE, most)
        assert float((given * person).sum(1).max()) <= most + 1e-5
        assert torch.allclose(given.norm(dim=1), torch.ones(PEOPLE), atol=1e-5)


def test_kept_looks_are_those_of_the_person() -> None:
    """The looks of these people are their first two coordinates."""
    person = people(PEOPLE, "people")
    kept = pseudonyms(ONE, looks=2)(person, person[:, :2], 0.9)
    lost = pseudonyms(ONE)(person, NONE, 0.9)

    def agreement(given: Tensor) -> float:
        return float(np.corrcoef(given[:, 0], person[:, 0])[0, 1])

    assert agreement(kept) > 0.9
    assert agreement(lost) < 0.5


def test_too_few_donors_are_refused() -> None:
    with pytest.raises(DeidError, match="too few"):
        Pseudonyms.of_key(ONE, people(10, "few"), torch.zeros(10, 0))


def test_the_arc_between_two_codes_is_gone_along_evenly() -> None:
    own, other = people(PEOPLE, "people"), people(PEOPLE, "others")
    assert torch.allclose(between(own, other, 0.0), own, atol=1e-6)
    assert torch.allclose(between(own, other, 1.0), other, atol=1e-5)
    cosines = [(between(own, other, share) * own).sum(1).mean() for share in (0.2, 0.5, 0.8)]
    assert cosines[0] > cosines[1] > cosines[2]
    assert torch.allclose(between(own, own, 0.5), own, atol=1e-4)


def test_a_keyed_swap_asks_no_seed_and_another_key_gives_another_face(models: ModelPaths) -> None:
    faces = torch.rand(2, 3, 64, 64, generator=torch_generator("faces")) * 2 - 1
    swap = build_swap(WORLD, models, AnonymizeParams())
    keyed = with_key(swap, ONE)
    assert torch.equal(keyed(faces, [1, 2]), keyed(faces, [3, 4]))
    assert not torch.allclose(keyed(faces, [1, 2]), with_key(swap, OTHER)(faces, [1, 2]), atol=1e-3)
    assert kept_looks(WORLD, ("age",), faces).shape == (2, 0)  # this world measures none


def test_later_refinements_of_a_keyed_swap_have_other_pseudonyms(models: ModelPaths) -> None:
    built = build_anonymizers("swap", WORLD, models, AnonymizeParams(strength=0.5), ONE)
    swaps = [built[level].inner for level in fallback_chain("swap")[:4]]  # type: ignore[attr-defined]
    phases = [tuple(swap.pseudonyms.phases.tolist()) for swap in swaps]
    assert phases[0] == phases[1]  # which is refined, and keeps linking the person's pictures
    assert len(set(phases)) == 3
    # What is still known gets it all.
    assert [swap.strength for swap in swaps] == [0.5, 1.0, 1.0, 1.0]


def test_a_keyed_swap_that_was_refined_at_once_has_other_pseudonyms_next(
    models: ModelPaths,
) -> None:
    """Where nothing but the pseudonym could differ."""
    built = build_anonymizers("swap", WORLD, models, AnonymizeParams(swap_steps=STEPS), ONE)
    swaps = [built[level].inner for level in fallback_chain("swap")[:4]]  # type: ignore[attr-defined]
    assert len({tuple(swap.pseudonyms.phases.tolist()) for swap in swaps}) == 4


def test_without_key_and_strength_a_swap_is_what_it_was(models: ModelPaths) -> None:
    faces = torch.rand(2, 3, 64, 64, generator=torch_generator("faces")) * 2 - 1
    swap = build_swap(WORLD, models, AnonymizeParams())
    w = swap.model.latent_of(WORLD.identity(swap.donors(faces, [1, 2])), faces)
    expected = swap.model.synthesize(w, 64).clamp(-1, 1)
    assert torch.equal(build("swap", WORLD, models, AnonymizeParams())(faces, [1, 2]), expected)
    asked = build_pipeline(RunSettings(recognizers=(), strength=1.0), WORLD, models)
    level = asked.components.anonymizers["swap"]
    assert torch.equal(level(faces, [1, 2]), expected)


def test_strength_0_is_the_reconstruction(models: ModelPaths) -> None:
    faces = torch.rand(2, 3, 64, 64, generator=torch_generator("faces")) * 2 - 1
    expected = build("reconstruction", WORLD, models, AnonymizeParams())(faces, [0, 0])
    for method in ("swap", "adversarial"):
        made = build(method, WORLD, models, AnonymizeParams(strength=0.0))(faces, [0, 0])
        assert torch.allclose(made, expected, atol=1e-4)


def test_a_key_is_new_private_and_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "key"
    shown = CliRunner().invoke(app, ["key", "new", str(file)])
    key = read_key(file)
    assert shown.exit_code == 0
    assert key.identity in shown.output
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(DeidError, match="is there already"):
        new_key(file)
    assert read_key(file) == key
    for text in (repr(key), shown.output, key.identity):
        assert key.secret.hex() not in text
    file.chmod(0o644)
    with pytest.raises(DeidError, match="chmod 600"):
        read_key(file)


@pytest.mark.parametrize("text", ["", "ab" * 31, "ab" * 33, "zz" * 32, "é" * 32])
def test_what_is_no_key_is_refused_without_being_told(tmp_path: Path, text: str) -> None:
    file = tmp_path / "key"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(DeidError, match="64 hexadecimal digits") as refused:
        read_key(file)
    assert not text or text not in str(refused.value)


def test_another_key_makes_outputs_anew_and_no_record_has_it(
    models: ModelPaths, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    told = []
    for _ in range(2):
        file.unlink(missing_ok=True)
        secret = new_key(file).secret.hex()
        pipeline = build_pipeline(RunSettings(key=str(file)), WORLD, models)
        told.append(pipeline.fingerprint)
        record = pipeline.blank_record("a.png", "0")
        assert secret not in json.dumps(record, default=str) + repr(pipeline)
    assert told[0] != told[1]
    moved = file.rename(tmp_path / "moved")
    again = build_pipeline(RunSettings(key=str(moved)), WORLD, models)
    assert again.fingerprint == told[1]  # the same key at another place


def test_a_request_neither_brings_a_key_nor_is_refused_for_the_servers() -> None:
    own = RunSettings(key="file", strength=0.5)
    assert RequestOptions().settings(own) == own
    pooled = RunSettings(donor_pool=24)
    for served in (own, pooled):
        assert RequestOptions(method="blur").settings(served) == RunSettings(method="blur")
    assert RequestOptions(method="adversarial", strength=0.2).settings(own).strength == 0.2
    with pytest.raises(ValidationError, match="key"):
        RequestOptions.model_validate({"key": "file"})


def test_where_a_services_key_lay_is_told_to_no_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "key"
    new_key(file)
    bundle: Any = SimpleNamespace(world=SimpleNamespace(name="toy"))
    monkeypatch.setattr(work, "methods_of", lambda _: ("swap",))
    monkeypatch.setattr(work, "to_standard_error", lambda: None)
    own = RunSettings(key=str(file))
    built = SimpleNamespace(settings=own, notes=())
    monkeypatch.setattr(project, "open_pipeline", lambda *_, **__: built)
    monkeypatch.setattr(project, "replace", lambda built, **_: built)
    monkeypatch.setattr(project.Pipelines, "world", None)
    _, answer = work.begin(bundle, own, Bounds(1, 1), "toy")
    file.unlink()
    (refused,) = answer([work.PictureRequest(b"", own)])
    assert refused == work.Refusal("withheld", work.WITHHELD)
    assert str(file) in caplog.text


def test_what_donors_keep_is_the_same_in_any_order_and_by_either_word_for_the_sex(
    models: ModelPaths,
) -> None:
    def kept(text: str) -> tuple[str, ...]:
        built = build_pipeline(RunSettings(keep_attributes=text), WORLD, models)
        swap: Any = built.components.anonymizers["swap"]
        return tuple(swap.inner.keep)

    assert kept("skin,gender, age") == kept("age,sex,skin") == ("age", "sex", "skin")
    assert kept("gender") == kept("sex") == ("sex",)


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"method": "blur", "key": "key"}, "no pseudonyms"),
        ({"method": "blur", "strength": 0.5}, "swap or adversarial"),
        ({"strength": 1.5}, "from 0 to 1"),
        ({"strength": float("nan")}, "from 0 to 1"),
        ({"keep_attributes": "age,hair"}, "hair: unknown"),
        ({"keep_attributes": ","}, "names nothing"),
        ({"key": "nowhere"}, "not readable"),
    ],
)
def test_what_cannot_be_had_is_refused_before_any_picture(
    models: ModelPaths, asked: Options, complaint: str
) -> None:
    with pytest.raises(DeidError, match=complaint):
        build_pipeline(RunSettings(**asked), WORLD, models)  # type: ignore[arg-type]
