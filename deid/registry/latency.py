"""How long a face takes with one version and with another, in turn on the same held-out faces."""

import time
from collections.abc import Iterable

from deid.anonymize import ModelPaths
from deid.batch.bundle import Bundle
from deid.evaluate.cells import Bench, produce
from deid.evaluate.faces import held_out_faces
from deid.params import EvaluateParams
from deid.worlds import load_world

FACES, ROUNDS = 8, 3
METHODS = ("adversarial", "swap")
"""What a version brings networks for; the other methods are code."""


def slowdowns(challenger: Bundle, champion: Bundle) -> dict[str, float]:
    """Method → the challenger's time as a multiple of the champion's, each the least of `ROUNDS`.

    Other work on the machine delays both alike; the first round, which warms up, does not count.
    """
    held_out = EvaluateParams(identities=FACES, views=1, seeds=1, batch_size=FACES)
    benches = [_bench(bundle) for bundle in (challenger, champion)]
    faces = [held_out_faces(bench.world, held_out, 0) for bench in benches]
    ratios = {}
    for method in METHODS:
        taken: list[list[float]] = [[], []]
        for _ in range(ROUNDS + 1):
            for number, bench in enumerate(benches):
                begun = time.perf_counter()
                produce(bench, method, faces[number])
                taken[number].append(time.perf_counter() - begun)
        ratios[method] = _least(taken[0]) / _least(taken[1])
    return ratios


def failures(ratios: dict[str, float], limit: float, champion: str) -> list[str]:
    """One sentence for each method that takes too long."""
    return [
        f"max_slowdown: {method} takes {ratio:.3g} times as long as version {champion}, must be "
        f"≤ {limit:g}"
        for method, ratio in ratios.items()
        if not ratio <= limit
    ]


def _least(seconds: Iterable[float]) -> float:
    _, *rest = seconds
    return min(rest)


def _bench(bundle: Bundle) -> Bench:
    world = load_world(bundle.world)
    return Bench(world, ModelPaths(bundle.stage_one, bundle.stage_two), bundle.anonymize, FACES)
