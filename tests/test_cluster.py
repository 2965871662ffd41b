"""A batch on a Ray cluster of two nodes on loopback: as one process would have done it."""

import json
import pickle
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deid.audit.seal import LEDGER, SEAL
from deid.batch.cluster import OUTCOMES, TASKS, RayCluster, _Shards
from deid.batch.executor import InProcess
from deid.batch.outcome import Task
from deid.batch.plan import locate
from deid.batch.run import run_batch
from deid.batch.settings import BatchSettings
from deid.errors import DeidError
from deid.latents.cluster import Cluster
from deid.latents.sample import sample_from
from deid.params import SampleParams
from tests.conftest import ROOT
from tests.executor import KILLED, open_mask, open_slow_mask
from tests.servers import wait_until
from tests.test_batch import save
from tests.test_serve import picture
from tests.toy import toy_world

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
PICTURES = 100


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head and another node, a processor each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        yield made
    finally:
        made.shutdown()


def settings(cluster: Any, **more: Any) -> BatchSettings:
    return BatchSettings(
        engine="ray", address=cluster.address, jobs=2, shard_size=4, timeout=60, **more
    )


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {
        name: path.read_bytes()
        for name, path in names.items()
        if not name.startswith(".deid/") and name not in (LEDGER, SEAL)
    }


def test_a_node_that_dies_midway_loses_and_doubles_nothing(cluster: Any, tmp_path: Path) -> None:
    source, out, one = (tmp_path / name for name in ("in", "out", "one"))
    source.mkdir()
    for number in range(PICTURES):
        (source / f"{number:02d}.png").write_bytes(picture(number))
    node, killed = cluster.add_node(num_cpus=1), threading.Event()

    def kill() -> None:
        import ray

        def both_work() -> bool:
            if not ray.is_initialized() or len(list(out.glob("*.png"))) < 8:
                return False
            actors = ray._private.state.actors().values()
            alive = [actor for actor in actors if actor["State"] == "ALIVE"]
            return node.node_id in [actor["Address"]["NodeID"] for actor in alive]

        wait_until(both_work, 300, "the other node works, too")
        if len(list(out.glob("*.png"))) < PICTURES - 8:
            cluster.remove_node(node, allow_graceful=False)
            killed.set()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    places = locate(str(source), str(out))
    summary = run_batch(places, lambda where: RayCluster(open_slow_mask, where, settings(cluster)))
    killer.join()
    assert killed.is_set()
    assert dict(summary.counts) == {"written": PICTURES}
    run_batch(locate(str(source), str(one)), lambda where: InProcess(open_slow_mask(), where))
    assert contents(out) == contents(one)
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert len({line["file"] for line in lines}) == len(lines) == PICTURES


def test_a_picture_that_kills_its_process_costs_itself_only(cluster: Any, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    save(source / "bad.png", 99, KILLED)
    for number in range(3):
        (source / f"{number}.png").write_bytes(picture(number))
    places = locate(str(source), str(out))
    summary = run_batch(places, lambda where: RayCluster(open_mask, where, settings(cluster)))
    assert dict(summary.counts) == {"written": 3, "quarantined": 1}
    assert "was killed by signal 9" in summary.problems[0]


def test_a_node_with_another_key_does_no_work(tmp_path: Path) -> None:
    places = locate(str(tmp_path), str(tmp_path / "out"))
    actor = _Shards(open_mask, places, 60.0, replace(open_mask().info, settings="another"))
    shard: list[Task] = []
    (answer,) = actor({TASKS: [pickle.dumps(shard)]})[OUTCOMES]
    assert "another key at the same paths" in str(pickle.loads(answer))


def test_the_cluster_draws_the_very_pairs_that_processes_draw(cluster: Any, tmp_path: Path) -> None:
    cluster.add_node(num_cpus=1)
    asked = SampleParams(count=24, shard_size=8, batch_size=4, workers=1, seed=5)
    for name, share_out in (("one", None), ("cluster", Cluster(cluster.address))):
        sample_from(asked, toy_world, tmp_path / name, share_out)
    made = contents(tmp_path / "cluster")
    assert len(made) > 6, "an index, and pictures and vectors of three shards"
    assert made == contents(tmp_path / "one")


def test_a_cluster_that_is_not_there_is_an_error_that_says_how_to_start_one(
    tmp_path: Path,
) -> None:
    pytest.importorskip("ray")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(picture(1))
    absent = BatchSettings(engine="ray", address="127.0.0.1:1")
    places = locate(str(tmp_path / "in"), str(tmp_path / "out"))
    with pytest.raises(DeidError, match=r"127\.0\.0\.1:1: .*ray start --head"):
        run_batch(places, lambda where: RayCluster(open_mask, where, absent))
