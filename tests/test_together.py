"""Pictures side by side: networks see them together, and each gets what it would get alone."""

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deid.serve.together import LARGEST, each, join

Sizes = list[int]


class Sums(nn.Module):
    """`[N,...]` → sums of its rows `[N,1]`, whole numbers, so that no batch rounds otherwise;
    `ValueError` for an input with a negative one. `seen`: how many rows came at a time."""

    def __init__(self, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.seen: Sizes = []
        self.inner = inner

    def forward(self, inputs: Tensor, times: int = 1) -> Tensor:
        self.seen.append(len(inputs))
        if (inputs < 0).any():
            raise ValueError("a negative number")
        sums = times * inputs.flatten(1).sum(1, keepdim=True)
        return sums if self.inner is None else sums + self.inner(inputs)


def joined(network: nn.Module) -> Any:
    join(network)
    return network


def rows(*values: float) -> Tensor:
    return torch.tensor(values)[:, None]


def test_calls_of_one_network_meet_and_each_gets_its_own_rows() -> None:
    network = joined(Sums())

    def work(number: int) -> list[float]:
        first = network(torch.full((1 + number % 3, 4), float(number)))
        return [float(value) for value in network(first + 1).flatten()]

    assert each(work, range(5)) == [[4.0 * n + 1] * (1 + n % 3) for n in range(5)]
    assert network.seen == [9, 9]


def test_shapes_and_arguments_that_differ_do_not_meet() -> None:
    network = joined(Sums())
    asked = [((2,), 1), ((2,), 1), ((3,), 1), ((2,), 2), ((2,), 2), ((2,), 2)]

    def work(task: tuple[tuple[int, ...], int]) -> float:
        return float(network(torch.ones(1, *task[0]), task[1]))

    assert each(work, asked) == [2, 2, 3, 4, 4, 4]
    assert network.seen == [3, 2, 1]


def test_elsewhere_a_joined_network_is_as_it_was() -> None:
    network = joined(Sums())
    assert network(rows(3)).tolist() == [[3]]
    assert each(lambda value: network(rows(value)).tolist(), [5]) == [[[5]]]
    assert list(network.state_dict()) == []


def test_an_error_of_a_network_reaches_none_but_whose_input_it_was() -> None:
    network, ends = joined(Sums()), []

    def work(value: float) -> str:
        try:
            ends.append(float(network(rows(value))))
        except ValueError as error:
            return str(error)
        return "made"

    said = each(work, [1.0, -1.0, 2.0])
    assert said == ["made", "a negative number", "made"]
    assert sorted(ends) == [1.0, 2.0]
    assert network.seen == [3, 1, 1, 1]


def test_the_error_of_a_picture_is_raised_once_all_others_are_made() -> None:
    network, ends = joined(Sums()), []

    def work(value: float) -> None:
        network(rows(value))
        if value == 1:
            raise RuntimeError("a fault")
        ends.append(float(network(rows(value))))

    with pytest.raises(RuntimeError, match="a fault"):
        each(work, [0.0, 1.0, 2.0])
    assert ends == [0.0, 2.0]


def test_only_one_picture_goes_on_at_a_time() -> None:
    network, working = joined(Sums()), threading.Lock()

    def work(number: int) -> None:
        for _ in range(3):
            with working:
                time.sleep(0.002)
            assert working.acquire(blocking=False), "two at once"
            working.release()
            network(rows(number))

    each(work, range(6))


def test_gradients_and_large_inputs_go_alone() -> None:
    network = joined(Sums())
    side = round(LARGEST**0.5)

    def gradient(value: float) -> float:
        inputs = rows(value).requires_grad_()
        (found,) = torch.autograd.grad(network(inputs, 3).sum(), inputs)
        return float(found)

    assert each(gradient, [1.0, 2.0]) == [3.0, 3.0]
    each(lambda _: network(torch.zeros(1, 1, side, side + 1)), range(2))
    assert network.seen == [1] * 4
    each(lambda _: network(torch.zeros(1, 1, side, side)), range(2))
    assert network.seen[4:] == [2]


def test_what_was_made_together_may_be_used_where_gradients_are_asked_for() -> None:
    network = joined(Sums())

    def work(value: float) -> float:
        with torch.inference_mode():
            inputs = rows(value)
        with torch.no_grad():
            code = network(inputs)
        factor = torch.ones(1, requires_grad=True)
        return float(torch.autograd.grad((code * factor).sum(), factor)[0])

    assert each(work, [1.0, 2.0, 3.0]) == [1.0, 2.0, 3.0]


def test_an_output_in_parts_is_shared_out_and_one_without_a_row_for_each_is_made_alone() -> None:
    class Parts(nn.Module):
        def forward(self, inputs: Tensor) -> list[Tensor]:
            return [inputs, 2 * inputs]

    class Mean(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.mean()[None]

    parts, mean = joined(Parts()), joined(Mean())
    made = each(lambda value: [float(part) for part in parts(rows(value))], [1.0, 2.0])
    assert made == [[1.0, 2.0], [2.0, 4.0]]
    assert each(lambda value: float(mean(rows(value))), [1.0, 2.0]) == [1.0, 2.0]


@pytest.mark.timeout(120)
def test_nobody_waits_for_ever_whatever_pictures_do() -> None:
    """Some hundred groups at random: calls of several networks, one within another, errors, ends
    between calls, and threads of a picture's own."""
    inner = joined(Sums())
    networks = [inner, joined(Sums()), joined(Sums(inner))]

    def program(seed: int) -> list[Any]:
        chance, said = random.Random(seed), []

        def call() -> Any:
            value = float(chance.choice([1, 2, 3, -1]))
            inputs = torch.full((chance.randint(1, 2), chance.choice([1, 2])), value)
            try:
                return chance.choice(networks)(inputs).tolist()
            except ValueError as error:
                return str(error)

        for _ in range(chance.randint(0, 5)):
            what = chance.random()
            if what < 0.1:
                return [*said, "ended early"]
            if what < 0.2:
                said.append(_in_thread(call))
            else:
                said.append(call())
        if chance.random() < 0.1:
            raise KeyError(seed)
        return said

    def caught(seed: int) -> list[Any]:
        try:
            return program(seed)
        except KeyError as error:
            return [str(error)]

    for number in range(300):
        seeds = range(100 * number, 100 * number + random.Random(number).randint(1, 9))
        expected = [caught(seed) for seed in seeds]  # each alone
        assert each(caught, seeds) == expected
    assert max(networks[1].seen) > 4
    assert threading.active_count() < 20


def _in_thread(call: Callable[[], Any]) -> Any:
    said: list[Any] = []
    thread = threading.Thread(target=lambda: said.append(call()))
    thread.start()
    thread.join()
    return said
