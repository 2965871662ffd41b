"""A promotion while a service works: real workers, a real registry, and clients that never stop."""

import threading
import time
from pathlib import Path

import pytest

from deid.batch.bundle import Bundle
from deid.batch.project import bundle_at
from deid.params import AnonymizeParams, RegisterParams
from deid.registry import promotion
from deid.registry.register import register
from deid.worlds import load_world
from tests.conftest import ROOT
from tests.serving import PAIR, Served, serving
from tests.toy_model import save_toy_model
from tests.toy_registry import BETTER, UNTIMED, store, write_metrics

__all__ = ["store"]
PARAMS = RegisterParams(model="reloaded", gates=UNTIMED)
LONGEST = 900.0  # that two new workers may take to start on a busy machine


def registered(stages: Path, blocks: int, **figures: float) -> int:
    """A version of the mini world whose `pixelate` has so many blocks."""
    bundle = Bundle(
        stages / "stage_one",
        stages / "stage_two",
        bundle_at(ROOT, "mini").world,
        AnonymizeParams(pixelate_blocks=blocks),
    )
    metrics = write_metrics(stages / "metrics.json", bundle, **figures)
    return register(PARAMS, bundle, metrics, stages / "out.json").version


class Client(threading.Thread):
    """Asks without a pause: the model and the picture of each answer, and what else came."""

    def __init__(self, server: Served, ended: threading.Event) -> None:
        super().__init__()
        self.server, self.ended = server, ended
        self.answers: list[tuple[str, bytes]] = []
        self.failures: list[object] = []

    def run(self) -> None:
        with self.server.client() as client:
            while not self.ended.is_set():
                try:
                    sent = {"image": ("a.png", PAIR.read_bytes())}
                    answer = client.post("/v1/anonymize?method=pixelate", files=sent)
                except Exception as error:
                    self.failures.append(error)
                    continue
                if answer.status_code == 200:
                    self.answers.append((answer.headers["x-deid-model"], answer.content))
                else:
                    self.failures.append(answer.text)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_promotion_under_load_drops_no_request_and_each_answer_names_who_made_it(
    store: Path, tmp_path: Path
) -> None:
    save_toy_model(tmp_path, load_world(bundle_at(ROOT, "mini").world))
    (store / "params.yaml").write_text(
        f"world: {{name: mini}}\nregister: {{model: {PARAMS.model}}}\n"
    )
    assert registered(tmp_path, 4) == 1
    first, second = (f"{PARAMS.model} version {number} (champion)" for number in (1, 2))
    limits = ("--jobs", "2", "--reload", "0.5", "--detect-size", "256")
    ended = threading.Event()
    with serving(tmp_path, *limits, project=store) as server:
        clients = [Client(server, ended) for _ in range(3)]
        for client in clients:
            client.start()
        try:
            assert registered(tmp_path, 5, **BETTER) == 2
            promotion.promote(PARAMS)
            until = time.monotonic() + LONGEST
            while not all(c.answers and c.answers[-1][0] == second for c in clients):
                assert time.monotonic() < until, server.log.read_text()
                time.sleep(0.2)
            time.sleep(2)
        finally:
            ended.set()
            for client in clients:
                client.join()
    assert [client.failures for client in clients] == [[], [], []]
    made = [answer for client in clients for answer in client.answers]
    assert {name for name, _ in made} == {first, second}
    pictures = {name: {data for named, data in made if named == name} for name in (first, second)}
    assert all(len(same) == 1 for same in pictures.values())  # none was made by the other model
    assert pictures[first] != pictures[second]
