"""The pool of a service: a bounded queue, a model that changes under load, a worker that dies."""

import asyncio
import os
import platform
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from fastapi.testclient import TestClient

from deid.batch.bundle import Bundle
from deid.batch.executor import TOO_LONG
from deid.batch.in_memory import Result, _Named
from deid.batch.settings import RunSettings
from deid.batch.workers import Lost
from deid.errors import DeidError
from deid.params import AnonymizeParams, WorldParams
from deid.pool import one_thread, process_pool, processes
from deid.registry import promotion
from deid.serve.app import create_app
from deid.serve.choice import Choice
from deid.serve.edge import Rate
from deid.serve.pool import Pool
from deid.serve.problems import Problem
from deid.serve.reading import OVERHEAD
from deid.serve.service import ModelBody, Service
from deid.serve.settings import ServeSettings
from deid.serve.tokens import Tokens
from deid.serve.work import Made, PictureRequest, Ready, default_settings
from tests.conftest import ROOT
from tests.servers import wait_until
from tests.toy_registry import BETTER, Model, model, store

__all__ = ["model", "store"]
TASK = PictureRequest(b"", RunSettings())


class Slow:
    """In place of a worker process: answers with its model's name, after `seconds`."""

    alive: list["Slow"] = []  # noqa: RUF012

    def __init__(self, name: str, seconds: float = 0.02, loss: str = "") -> None:
        self.name, self.seconds, self.loss, self.busy = name, seconds, loss, threading.Lock()
        Slow.alive.append(self)

    def greeting(self) -> Ready:
        return Ready(self.name, ())

    def ask(self, pictures: Sequence[PictureRequest], timeout: float) -> list[Made]:
        assert self.busy.acquire(blocking=False), "two groups at once"
        assert self in Slow.alive, "it was ended"
        self.work()
        self.busy.release()
        if self.loss:
            raise Lost(self.loss)
        assert self in Slow.alive, "it was ended in the middle of its picture"
        return [Made(Result(self.name.encode(), (), "no face"), self.name) for _ in pictures]

    def work(self) -> None:
        time.sleep(self.seconds)

    def end(self) -> None:
        Slow.alive.remove(self)


@pytest.fixture(autouse=True)
def _none_alive() -> None:
    Slow.alive.clear()


def run(
    work: Callable[[Pool], Awaitable[Any]],
    jobs: int = 2,
    queue: int = 100,
    batch: int = 1,
    timeout: float = 80.0,
) -> Any:
    async def all_of_it() -> Any:
        pool = Pool(jobs, queue, timeout, batch)
        try:
            return await work(pool)
        finally:
            await pool.close()
            assert Slow.alive == []

    return asyncio.run(all_of_it())


async def until(true: Callable[[], bool]) -> None:
    """Wait for what a test needs, however long the machine takes."""
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)


def test_a_model_changes_under_load_and_no_picture_is_lost() -> None:
    async def work(pool: Pool) -> None:
        await pool.use(lambda: Slow("one"))  # type: ignore[arg-type, return-value]
        asked = [asyncio.create_task(pool.run(TASK)) for _ in range(60)]
        await asyncio.sleep(0.1)
        await pool.use(lambda: Slow("two"))  # type: ignore[arg-type, return-value]
        names = [answer.result.data for answer in await asyncio.gather(*asked)]  # type: ignore[union-attr]
        assert set(names) == {b"one", b"two"}
        assert len(names) == 60
        after = [await pool.run(TASK) for _ in range(10)]
        assert {answer.result.data for answer in after} == {b"two"}  # type: ignore[union-attr]
        await until(lambda: [worker.name for worker in Slow.alive] == ["two", "two"])

    run(work)


def test_a_model_that_cannot_be_started_leaves_the_present_one() -> None:
    def broken() -> Any:
        raise DeidError("no such weights")

    async def work(pool: Pool) -> None:
        await pool.use(lambda: Slow("one"))  # type: ignore[arg-type, return-value]
        with pytest.raises(DeidError, match="no such weights"):
            await pool.use(broken)
        answer = await pool.run(TASK)
        assert answer.result.data == b"one"  # type: ignore[union-attr]

    run(work)


@pytest.mark.parametrize(("loss", "code"), [(TOO_LONG, "too_slow"), ("was killed", "worker_lost")])
def test_a_lost_worker_costs_one_picture_and_is_replaced(loss: str, code: str) -> None:
    losses = [loss]

    async def work(pool: Pool) -> None:
        await pool.use(lambda: Slow("one", loss=losses.pop() if losses else ""))  # type: ignore[arg-type, return-value]
        with pytest.raises(Problem) as lost:
            await pool.run(TASK)
        assert (lost.value.status, lost.value.code) == (503, code)
        answer = await pool.run(TASK)
        assert answer.result.data == b"one"  # type: ignore[union-attr]
        assert pool.lost == 1

    run(work, jobs=1)


class Grouped(Slow):
    """Tells how many pictures came at a time, and how long they might take; a worker is lost with
    the picture `POISON`, as `loss` says."""

    groups: list[int] = []  # noqa: RUF012
    limits: list[float] = []  # noqa: RUF012

    def ask(self, pictures: Sequence[PictureRequest], timeout: float) -> list[Made]:
        self.groups.append(len(pictures))
        self.limits.append(timeout)
        if POISON in pictures:
            time.sleep(0.02)
            raise Lost(self.loss or "was killed")
        loss, self.loss = self.loss, ""
        made = super().ask(pictures, timeout)
        self.loss = loss
        named = zip(made, pictures, strict=True)
        return [Made(replace(m.result, data=p.data), m.model) for m, p in named]


class Held(Grouped):
    """Is at work until it is let go, and so for as long as a test needs it to be."""

    def __init__(self, let_go: threading.Event) -> None:
        super().__init__("one")
        self.let_go = let_go

    def work(self) -> None:
        assert self.let_go.wait(60), "nobody let it go"


POISON = PictureRequest(b"poison", RunSettings())


def numbered(count: int) -> list[PictureRequest]:
    return [PictureRequest(str(number).encode(), RunSettings()) for number in range(count)]


@pytest.fixture
def groups() -> list[int]:
    Grouped.groups.clear()
    Grouped.limits.clear()
    return Grouped.groups


@pytest.fixture
def let_go() -> Iterator[threading.Event]:
    """Lets a `Held` worker go; after the test in any case, for its thread waits."""
    event = threading.Event()
    yield event
    event.set()


def test_who_finds_the_queue_full_is_told_so_at_once(let_go: threading.Event) -> None:
    async def work(pool: Pool) -> None:
        await pool.use(lambda: Held(let_go))  # type: ignore[arg-type, return-value]
        asked = [asyncio.create_task(pool.run(TASK)) for _ in range(3)]
        await until(lambda: pool.is_full)
        with pytest.raises(Problem) as refused:
            pool.run(TASK).send(None)  # it has nothing to wait for
        assert refused.value.status == 503
        assert (refused.value.retry_after or 0) >= 1
        let_go.set()
        await asyncio.gather(*asked)
        await pool.run(TASK)

    run(work, jobs=1, queue=2)


def test_an_idle_worker_takes_those_that_wait_and_each_gets_its_own_answer(
    groups: list[int],
) -> None:
    async def work(pool: Pool) -> None:
        await pool.use(lambda: Grouped("one"))  # type: ignore[arg-type, return-value]
        asked = [asyncio.create_task(pool.run(picture)) for picture in numbered(9)]
        answers = await asyncio.gather(*asked)
        assert [answer.result.data for answer in answers] == [p.data for p in numbered(9)]  # type: ignore[union-attr]
        assert (groups, pool.together, pool.accepted) == ([4, 4, 1], 8, 0)
        first = asyncio.create_task(pool.run(TASK))
        await asyncio.sleep(0.01)  # it is at work, and waits for nobody
        await asyncio.gather(first, *(pool.run(TASK) for _ in range(3)))
        assert groups[3:] == [1, 3]

    run(work, jobs=1, batch=4)


def test_idle_workers_share_what_waits(groups: list[int]) -> None:
    async def work(pool: Pool) -> None:
        asked = [asyncio.create_task(pool.run(TASK)) for _ in range(6)]
        await asyncio.sleep(0)
        await pool.use(lambda: Grouped("one"))  # type: ignore[arg-type, return-value]
        await asyncio.gather(*asked)
        await until(lambda: len(pool._places) == 2)
        await asyncio.gather(*(pool.run(TASK) for _ in range(6)))
        assert groups == [6, 3, 3]

    run(work, jobs=2, batch=8)


@pytest.mark.parametrize(("loss", "code"), [(TOO_LONG, "too_slow"), ("was killed", "worker_lost")])
def test_a_picture_that_costs_the_worker_takes_none_of_its_group_along(
    groups: list[int], loss: str, code: str
) -> None:
    async def work(pool: Pool) -> None:
        await pool.use(lambda: Grouped("one", loss=loss))  # type: ignore[arg-type, return-value]
        pictures = [*numbered(3), POISON]
        *answers, lost = await asyncio.gather(*map(pool.run, pictures), return_exceptions=True)
        assert [answer.result.data for answer in answers] == [b"0", b"1", b"2"]  # type: ignore[union-attr]
        assert isinstance(lost, Problem)
        assert lost.code == code
        assert groups == [4, 1, 1, 1, 1]
        assert (pool.lost, pool.accepted, pool.together) == (2, 0, 0)
        await asyncio.gather(*map(pool.run, numbered(2)))
        assert groups[5:] == [2]

    run(work, jobs=1, batch=4)


def test_a_group_is_given_up_before_any_of_it_would_be_masked_for_want_of_time(
    groups: list[int],
) -> None:
    async def work(pool: Pool) -> None:
        await pool.use(lambda: Grouped("one"))  # type: ignore[arg-type, return-value]
        hasty = PictureRequest(b"", RunSettings(seconds=1.5))
        await asyncio.gather(pool.run(TASK), pool.run(hasty))
        await asyncio.gather(pool.run(TASK), pool.run(TASK))
        await pool.run(hasty)
        assert Grouped.limits == [1.5, 40.0, 80.0]

    run(work, jobs=1, batch=4)


def test_pictures_that_take_long_are_put_together_in_smaller_groups(groups: list[int]) -> None:
    async def work(pool: Pool) -> None:
        await pool.use(lambda: Grouped("one"))  # type: ignore[arg-type, return-value]
        pool.seconds = 8.0
        await asyncio.gather(*map(pool.run, numbered(3)))
        pool.seconds = 60.0
        await asyncio.gather(*map(pool.run, numbered(2)))
        assert groups == [2, 1, 1, 1]

    run(work, jobs=1, batch=4)


def test_a_model_changes_while_groups_are_at_work_and_no_picture_is_lost(
    groups: list[int],
) -> None:
    async def work(pool: Pool) -> None:
        await pool.use(lambda: Grouped("one", 0.05))  # type: ignore[arg-type, return-value]
        asked = [asyncio.create_task(pool.run(picture)) for picture in numbered(60)]
        await asyncio.sleep(0.05)
        await pool.use(lambda: Grouped("two"))  # type: ignore[arg-type, return-value]
        answers = await asyncio.gather(*asked)
        assert [answer.result.data for answer in answers] == [p.data for p in numbered(60)]  # type: ignore[union-attr]
        assert {answer.model for answer in answers} == {"one", "two"}  # type: ignore[union-attr]
        assert (sum(groups), max(groups), pool.accepted) == (60, 3, 0)

    run(work, batch=3)


def test_who_waits_too_long_for_a_worker_is_told_to_come_again() -> None:
    async def work(pool: Pool) -> None:
        with pytest.raises(Problem) as refused:
            await pool.run(TASK)
        assert (refused.value.code, pool.accepted) == ("overloaded", 0)
        pool._timeout = 60.0  # a worker may take longer to start than the first one waited
        asked = asyncio.create_task(pool.run(TASK))
        await pool.use(lambda: Slow("one"))  # type: ignore[arg-type, return-value]
        await asked

    run(work, jobs=1, timeout=0.2)


def test_batches_fill_no_larger_queue(groups: list[int], let_go: threading.Event) -> None:
    async def work(pool: Pool) -> None:
        await pool.use(lambda: Held(let_go))  # type: ignore[arg-type, return-value]
        asked = [asyncio.create_task(pool.run(TASK)) for _ in range(4)]
        await until(lambda: bool(groups))
        assert (groups, pool.is_full) == ([4], True)
        with pytest.raises(Problem, match="too many pictures wait"):
            await pool.run(TASK)
        let_go.set()
        await asyncio.gather(*asked)
        assert not pool.is_full

    run(work, jobs=1, queue=3, batch=8)


def test_a_service_that_ends_leaves_no_picture_waiting_for_ever(
    groups: list[int], let_go: threading.Event
) -> None:
    async def work(pool: Pool) -> None:
        await pool.use(lambda: Held(let_go))  # type: ignore[arg-type, return-value]
        asked = [asyncio.create_task(pool.run(TASK)) for _ in range(5)]
        await until(lambda: groups == [2])
        await pool.close()
        ends = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 30)
        assert all(isinstance(end, asyncio.CancelledError) for end in ends)
        assert pool.accepted == 0

    run(work, jobs=1, batch=2)


def test_a_client_that_leaves_ends_no_worker_in_the_middle_of_its_picture(
    groups: list[int], let_go: threading.Event
) -> None:
    async def work(pool: Pool) -> None:
        await pool.use(lambda: Held(let_go))  # type: ignore[arg-type, return-value]
        asked = asyncio.create_task(pool.run(TASK))
        await until(lambda: bool(groups))
        asked.cancel()
        await asyncio.wait([asked])
        assert pool.accepted == 1  # the picture is at work still
        let_go.set()
        await pool.run(TASK)  # the only worker is free again
        assert (pool.accepted, pool.lost) == (0, 0)

    run(work, jobs=1)


def test_a_client_may_ask_twice_at_once_and_then_at_its_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    rate = Rate(1.0)
    assert [rate.wait("a"), rate.wait("a")] == [0.0, 0.0]
    assert rate.wait("a") == 1.0
    assert rate.wait("b") == 0.0
    now[0] = 1.0
    assert rate.wait("a") == 0.0
    assert rate.wait("a") == 1.0
    assert Rate(0.0).wait("a") == 0.0


def test_the_champion_is_served_and_given_up_for_the_next_and_for_the_one_before(
    model: Model, tmp_path: Any
) -> None:
    (tmp_path / "params.yaml").write_text(f"register: {{model: {model.params.model}}}\n")
    choice = Choice(None, tmp_path, None)
    assert choice.moves
    model.register(1.0)
    first = choice.now()
    assert (first.version, choice.newer(first)) == ("1", None)
    model.register(2.0, **BETTER)
    assert choice.newer(first) is None  # a challenger serves nobody
    promotion.promote(model.params)
    second = choice.newer(first)
    assert second is not None
    assert (second.version, choice.newer(second)) == ("2", None)
    promotion.rollback(model.params)
    back = choice.newer(second)
    assert back is not None
    assert back.version == "1"
    assert not Choice("shipped", tmp_path, None).moves
    assert not Choice("2", tmp_path, None).moves


def test_an_address_that_others_reach_needs_tokens_or_a_word() -> None:
    with pytest.raises(DeidError, match=r"--host 0\.0\.0\.0: .*--tokens FILE, or --open"):
        ServeSettings(host="0.0.0.0")
    assert ServeSettings(host="0.0.0.0", open=True).host == "0.0.0.0"
    for name in ("jobs", "batch"):
        with pytest.raises(DeidError, match=f"--{name} 0: must be more than 0"):
            ServeSettings(**{name: 0})  # type: ignore[arg-type]


def test_a_token_file_holds_hashes_a_plain_token_is_not_quoted_and_a_new_line_counts_at_once(
    tmp_path: Path,
) -> None:
    file, plain = tmp_path / "tokens", "not-a-hash-but-the-token"
    file.write_text(f"{plain} alice\n")
    with pytest.raises(DeidError, match=r"tokens:1: not a SHA-256 hash") as refused:
        Tokens(file)
    assert plain not in str(refused.value)
    file.write_text(f"{sha256(b'one').hexdigest()} alice\n")
    tokens = Tokens(file)
    assert (tokens.owner("one"), tokens.owner("two"), tokens.owner("")) == ("alice", None, None)
    file.write_text(f"{sha256(b'two').hexdigest()}\n")
    os.utime(file, (1, 1))
    assert (tokens.owner("one"), tokens.owner("two")) == (None, "line 1")
    file.write_text("# nobody\n")
    with pytest.raises(DeidError, match="no token in it"):
        Tokens(file)


def test_a_worker_that_is_starting_ends_with_the_service() -> None:
    class Loading(Slow):
        def greeting(self) -> Ready:
            while self in Slow.alive:
                time.sleep(0.01)
            raise Lost("was killed")

    async def work(pool: Pool) -> None:
        starting = asyncio.create_task(pool.use(lambda: Loading("one")))  # type: ignore[arg-type, return-value]
        await until(lambda: bool(pool._workers))
        assert len(Slow.alive) == 1
        starting.cancel()

    run(work)


def test_a_fault_at_a_worker_costs_its_place_and_not_the_service() -> None:
    faults = [RuntimeError("a fault")]

    class Faulty(Slow):
        def ask(self, pictures: Sequence[PictureRequest], timeout: float) -> list[Made]:
            if faults:
                raise faults.pop()
            return super().ask(pictures, timeout)

    async def work(pool: Pool) -> None:
        await pool.use(lambda: Faulty("one"))  # type: ignore[arg-type, return-value]
        with pytest.raises(RuntimeError, match="a fault"):
            await pool.run(TASK)
        answer = await pool.run(TASK)
        assert answer.result.data == b"one"  # type: ignore[union-attr]

    run(work, jobs=1)


LIMITS = ServeSettings(jobs=1, queue=1, max_bytes=1000)


@contextmanager
def app(limits: ServeSettings = LIMITS) -> Iterator[tuple[TestClient, Service]]:
    async def begin(service: Service) -> None:
        await service.pool.use(lambda: Slow("one"))  # type: ignore[arg-type, return-value]
        service.model = ModelBody(
            name="one",
            version=None,
            run_id=None,
            content_sha256="",
            world="mini",
            methods=["mask"],
            default_method="mask",
        )

    edge, service = create_app(limits, RunSettings(method="mask"), begin)
    with TestClient(edge, raise_server_exceptions=False) as client:
        wait_until(lambda: service.model is not None, 10, "a model")
        yield client, service


def test_a_fault_of_the_service_is_answered_as_a_problem_that_tells_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fault(*_: object) -> None:
        raise RuntimeError("what was sent")

    with app() as (client, service):
        monkeypatch.setattr(service.pool, "run", fault)
        answer = client.post("/v1/anonymize", content=b"x", headers={"content-type": "image/png"})
    assert (answer.status_code, answer.json()["code"]) == (500, "failed")
    assert answer.headers["content-type"] == "application/problem+json"
    assert "what was sent" not in answer.text


def test_an_overloaded_service_refuses_before_it_reads_or_looks_at_options(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "deid.serve")
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("the body was read")

    async def send(message: Any) -> None:
        sent.append(message)

    with app() as (client, service):
        service.pool.accepted = LIMITS.jobs + LIMITS.queue
        scope = {"type": "http", "method": "POST", "path": "/v1/anonymize", "headers": []}
        scope |= {"query_string": b"method=%", "client": ("127.0.0.1", 1)}
        asyncio.run(service.edge(scope, receive, send))  # type: ignore[misc, arg-type]
        counted = client.get("/metrics").text
        assert client.get("/v1/models").status_code == 200
    assert sent[0]["status"] == 503
    assert dict(sent[0]["headers"])[b"retry-after"] == b"1"
    assert b'"overloaded"' in sent[1]["body"]
    assert 'deid_requests_total{route="/v1/anonymize",status="503"} 1.0' in counted
    assert 'deid_refusals_total{code="overloaded"} 1.0' in counted
    (line, *_) = (record for record in caplog.records if record.message == "request")
    assert (line.route, line.code) == ("/v1/anonymize", "overloaded")  # type: ignore[attr-defined]


@pytest.mark.parametrize("forbidden", [False, True])
def test_an_operator_may_forbid_requests_to_keep_a_face(forbidden: bool) -> None:
    picture = {"content": b"x", "headers": {"content-type": "image/png"}}
    with app(replace(LIMITS, no_keep=forbidden)) as (client, _):
        assert client.post("/v1/anonymize", **picture).status_code == 200
        asked = client.post("/v1/anonymize?keep=1,2,3,4", **picture)
        assert asked.status_code == (403 if forbidden else 200)
        assert client.get("/v1/models").json()["may_keep"] is not forbidden
    if forbidden:
        assert asked.json()["code"] == "keep_forbidden"


def test_requests_together_hold_no_more_bytes_than_pictures_may_wait() -> None:
    picture = {"content": b"x" * 900, "headers": {"content-type": "image/png"}}
    with app() as (client, service):
        assert client.post("/v1/anonymize", **picture).status_code == 200
        assert service.held == 0
        service.held = 2 * (LIMITS.max_bytes + OVERHEAD) - 899
        refused = client.post("/v1/anonymize", **picture)
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        service.held -= 1
        assert client.post("/v1/anonymize", **picture).status_code == 200


def test_options_that_a_service_cannot_keep_are_refused(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path, tmp_path, WorldParams(), AnonymizeParams())
    for asked in (RunSettings(dry_run=True), RunSettings(keep_metadata=("icc",))):
        with pytest.raises(DeidError, match=r"--dry-run|--keep-metadata"):
            default_settings(asked, bundle, 10.0)


def test_a_box_is_used_also_where_the_service_keeps_that_face_itself() -> None:
    everybody = SimpleNamespace(keeps=lambda *_: True)
    face = SimpleNamespace(geometry=SimpleNamespace(box=(0.0, 0.0, 10.0, 10.0)), found="detector")
    boxes = np.array([[0.0, 0.0, 10.0, 10.0]], np.float32)
    named = _Named(None, (), True, boxes, everybody)  # type: ignore[arg-type]
    assert named.keeps(np.zeros((20, 20, 3), np.uint8), face)  # type: ignore[arg-type]
    assert named.missing() == ""


def test_processes_that_start_together_leave_the_environment_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def start() -> None:
        for _ in range(50):
            with one_thread():
                time.sleep(0.0005)
                seen.append(os.environ.get("OMP_NUM_THREADS"))

    seen: list[str | None] = []
    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == ["1"] * 200
    assert "OMP_NUM_THREADS" not in os.environ


def test_a_process_has_the_environment_that_its_parent_has_when_it_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for value in ("one", "two"):
        monkeypatch.setenv("DEID_TEST_OF_PROCESSES", value)
        with process_pool(1) as pool:
            seen = pool.submit(environment_of, "DEID_TEST_OF_PROCESSES").result()
        assert seen == (value, 1)


def environment_of(name: str) -> tuple[str | None, int]:
    """In a process: a variable, and how many threads compute."""
    import torch

    return os.environ.get(name), torch.get_num_threads()


def test_processes_work_where_no_socket_can_be(tmp_path: Path) -> None:
    """The path of a socket has 107 bytes at most."""
    long = tmp_path / ("a long name " * 9)
    long.mkdir()
    code = (
        "import os; from deid.pool import process_pool, processes\n"
        "if __name__ == '__main__':\n"
        "    with process_pool(1) as pool:\n"
        "        print(processes().get_start_method(), pool.submit(os.getpid).result())"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    surroundings = os.environ | {"TMPDIR": str(long), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script], env=surroundings, capture_output=True, text=True
    )
    assert done.stdout.startswith("spawn "), done.stderr
    assert not done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each is a new Python")
def test_processes_begin_with_the_libraries_and_without_threads() -> None:
    from multiprocessing.forkserver import _forkserver  # type: ignore[attr-defined]

    processes()
    server = psutil.Process(_forkserver._forkserver_pid)
    wait_until(lambda: any("libtorch" in m.path for m in server.memory_maps()), 60, "torch there")
    assert server.num_threads() == 1
    server.kill()  # as for want of memory
    wait_until(lambda: server.status() == psutil.STATUS_ZOMBIE, 60, "server gone")
    with process_pool(1) as pool:
        assert pool.submit(os.getpid).result() != os.getpid()


def _pages_cleared(megabytes: int, times: int) -> int:
    import torch  # numpy asks for pages of 2 MB

    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(megabytes * 2**18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries cannot be told")
def test_a_pools_processes_keep_the_memory_that_large_tensors_had() -> None:
    with process_pool(1) as pool:
        pool.submit(_pages_cleared, 64, 1).result()
        again = pool.submit(_pages_cleared, 64, 10).result()
    assert again * resource.getpagesize() <= 2 * 64 * 2**20  # else ten times 64 MB
