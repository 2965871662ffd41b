"""Who tunes a recognizer finds whom it should, and has seen nobody whom it compares."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from deid.attack import fine_tuned
from deid.attack.fine_tuned import LEAST, tuned_scores
from deid.attack.scores import Scores, Searched, hits, without_own
from deid.pixels import Pixels, to_tensor
from deid.seeds import numpy_generator, torch_generator

SIDE, DIM = 8, 12


class Recognizer(nn.Module):
    """A linear one, of the mean colors of a picture's four quarters."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, DIM, bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(DIM, 12, generator=torch_generator("recognizer")))

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.layer(F.avg_pool2d(images, SIDE // 2).flatten(1)), dim=1)


def people(count: int, seed: int) -> Pixels:
    """Of four even quarters that look the same in a mirror, `uint8 [count,8,8,3]`."""
    random = numpy_generator("people", 0, seed)
    halves = random.integers(30, 226, (count, 2, 1, 3), dtype=np.uint8)
    return np.repeat(np.repeat(halves, SIDE // 2, axis=1), SIDE, axis=2)


def codes(network: nn.Module, pictures: Pixels) -> NDArray[np.float64]:
    with torch.no_grad():
        found: NDArray[np.float64] = network(to_tensor(pictures)).double().numpy()
    return found


def rank1(scores: Scores, who: NDArray[np.int64]) -> float:
    found = hits(Searched(scores, without_own(scores, who), who))
    assert found is not None
    return float(found.values["rank1"].mean())


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are learned from as they are, by large steps."""
    monkeypatch.setattr(fine_tuned, "diversify", lambda images, _: images)
    monkeypatch.setattr(fine_tuned, "RATE", 0.03)


@pytest.mark.usefixtures("whole")
def test_a_method_that_swaps_colors_is_seen_through_by_a_tuned_recognizer() -> None:
    network, originals, who = Recognizer(), people(40, 0), np.arange(40)
    outputs = np.ascontiguousarray(255 - originals[:, ::-1, :, ::-1])
    before = codes(network, originals)
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    assert rank1(codes(network, outputs) @ before.T, who) < 0.2
    scores = tuned_scores(network, outputs, before, who, 80)
    assert scores is not None
    assert rank1(scores, who) > 0.4
    after = network.state_dict()
    assert all(torch.equal(kept[name], after[name]) for name in kept)  # a copy was tuned


@pytest.mark.usefixtures("whole")
def test_who_is_tuned_on_noise_finds_nobody() -> None:
    network, who, found = Recognizer(), np.arange(40), []
    for seed in range(6):
        originals, outputs = people(40, seed), people(40, 100 + seed)
        scores = tuned_scores(network, outputs, codes(network, originals), who, 40)
        assert scores is not None
        found.append(rank1(scores, who))
    assert 0.1 / 40 < np.mean(found) < 2.5 / 40


def test_each_comparison_is_made_by_a_network_that_has_seen_neither(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The toy “network” says the people whom it was tuned on."""
    who, learned = np.repeat(np.arange(16), 2), []

    def tune(network: Any, outputs: Tensor, originals: Any, people: Any, steps: int) -> Any:
        learned.append(set(people.tolist()))
        return network

    def compare(similarities: Any, people: Any, count: int) -> Scores:
        return np.full((len(similarities), count), len(learned) - 1.0)

    monkeypatch.setattr(fine_tuned, "_tune", tune)
    monkeypatch.setattr(fine_tuned, "person_scores", compare)
    network = Recognizer()
    pictures = people(32, 3)
    scores = tuned_scores(network, pictures, codes(network, pictures), who, 1)
    assert scores is not None
    assert len(learned) == 6
    for row, person in enumerate(who):
        for other in range(16):
            assert not {person, other} & learned[int(scores[row, other])]
            assert len(learned[int(scores[row, other])]) == 8


def test_few_people_are_not_learned_from() -> None:
    who = np.arange(LEAST - 1)
    pictures = people(len(who), 0)
    assert tuned_scores(Recognizer(), pictures, codes(Recognizer(), pictures), who, 5) is None
