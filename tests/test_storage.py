"""S3 as it is on bad days: nothing lost, nothing half-written, nothing read that is not there."""

import base64
import hashlib
import json
import random
import signal
import threading
from pathlib import Path

import boto3
import pytest

from deid.audit.seal import LEDGER, MANIFEST, SEAL
from deid.batch import run as run_module
from deid.batch.executor import InProcess
from deid.batch.pipeline import Pipeline, build_pipeline
from deid.batch.plan import locate
from deid.batch.run import run_batch
from deid.batch.settings import RunSettings
from deid.batch.summary import Summary
from deid.errors import DeidError
from deid.storage import lease
from deid.storage import s3 as s3_module
from deid.storage.local import LocalStorage
from deid.storage.locations import open_storage
from deid.storage.protocol import PRIVATE, Occupied, Storage, StorageFailure, Unreachable
from deid.storage.s3 import S3Storage
from tests.servers import Faults, Request, faults, s3, wait_until
from tests.test_serve import picture
from tests.toy import toy_world

__all__ = ["faults", "s3"]  # fixtures

SECONDS_LEFT = lease._seconds_left
NAMES = [f"{n % 3}/{n}.png" for n in range(8)]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "PAUSE", 0.01)
    monkeypatch.setattr(s3_module, "READ_TIMEOUT", 2.0)
    monkeypatch.setattr(lease, "_seconds_left", lambda storage: 0.0)  # a failed run keeps none out


@pytest.fixture
def bucket(s3: Path, tmp_path: Path) -> str:
    name = f"{tmp_path.name}-{s3.name}".replace("_", "-")[-60:].strip("-")
    boto3.client("s3").create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return build_pipeline(RunSettings(method="mask"), toy_world(), None)


@pytest.mark.parametrize("kind", ["500", "503", "reset", "stall", "half", "damaged"])
def test_a_read_that_fails_once_or_twice_is_read_again(
    bucket: str, faults: Faults, kind: str
) -> None:
    storage = S3Storage(bucket, "deep")
    data = random.Random(0).randbytes(300_000)
    version = storage.write("a.png", data)
    for kinds in ([kind], [kind, kind] if kind != "stall" else []):
        faults.next(*kinds, path="a.png")
        assert storage.fetch("a.png") == (data, version)


@pytest.mark.parametrize("kind", ["500", "reset", "stall", "unsaid"])
def test_a_write_that_fails_once_is_written_again(bucket: str, faults: Faults, kind: str) -> None:
    storage = S3Storage(bucket, "deep")
    faults.next(kind, method="PUT")
    storage.write("a.png", b"all of it")
    assert storage.read("a.png") == b"all of it"
    assert set(storage.list()) == {"a.png"}


def test_what_never_arrives_whole_is_never_taken_for_whole(bucket: str, faults: Faults) -> None:
    storage = S3Storage(bucket, "deep")
    storage.write("a.png", random.Random(0).randbytes(300_000))
    faults.always("half", method="GET", path="a.png")
    with pytest.raises(Unreachable, match=r"a\.png: breaks off"):
        storage.fetch("a.png")


def test_a_name_too_many_bytes_or_not_there_is_that_files_affair(
    bucket: str, faults: Faults
) -> None:
    storage = S3Storage(bucket, "")
    storage.write("a.png", b"x" * 1000)
    with pytest.raises(DeidError, match="1,000 bytes"):
        storage.fetch("a.png", limit=999)
    for wrong in ("b.png", "\udcff.png"):
        with pytest.raises(DeidError) as raised:
            storage.fetch(wrong)
        assert not isinstance(raised.value, StorageFailure)
    assert storage.version("b.png") is None


def test_a_large_object_is_written_by_one_request_that_the_server_checks(
    bucket: str, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "READ_TIMEOUT", 60.0)  # so much takes a busy machine its time
    storage = S3Storage(bucket, "deep")
    data = random.Random(1).randbytes(17 * 2**20)
    storage.write("large.tiff", data)
    assert storage.read("large.tiff") == data
    (put,) = [request for request in faults.seen if request.method == "PUT"]
    assert put.headers["content-md5"] == base64.b64encode(hashlib.md5(data).digest()).decode()


def test_an_output_is_put_only_over_what_was_seen_there(bucket: str, faults: Faults) -> None:
    storage = S3Storage(bucket, "deep")
    first = storage.replace("a.png", b"first", None)
    storage.replace("a.png", b"second", first)
    asked = [request.headers for request in faults.seen if request.method == "PUT"]
    assert asked[0]["if-none-match"] == "*"
    assert asked[1]["if-match"] == f'"{first}"'
    faults.always("taken", method="PUT")
    with pytest.raises(Occupied, match="another file came to the output's name meanwhile"):
        storage.replace("a.png", b"third", first)
    with pytest.raises(Occupied):
        storage.replace("gone.png", b"third", first)
    assert storage.read("a.png") == b"second"
    # A request repeated, because its answer was lost: the first one was heeded.
    assert storage.replace("a.png", b"second", first) == storage.version("a.png")


def test_a_server_without_conditional_writes_is_looked_at_before(
    bucket: str, faults: Faults
) -> None:
    storage = S3Storage(bucket, "deep")
    faults.choose = lambda r: (
        "unconditional" if {"if-match", "if-none-match"} & {*r.headers} else ""
    )
    first = storage.replace("a.png", b"first", None)
    second = storage.replace("a.png", b"second", first)
    assert storage.read("a.png") == b"second"
    for stale in (None, first):
        with pytest.raises(Occupied):
            storage.replace("a.png", b"third", stale)
    assert storage.version("a.png") == second


def test_a_folder_keeps_what_came_to_a_name_meanwhile(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    first = storage.replace("a.png", b"first", None)
    second = storage.replace("a.png", b"second", first)
    for stale in (None, first):
        with pytest.raises(Occupied):
            storage.replace("a.png", b"third", stale)
    assert storage.replace("a.png", b"second", None)
    assert storage.read("a.png") == b"second"
    assert storage.version("a.png") != first != second
    assert set(storage.list()) == {"a.png"}


def test_a_list_longer_than_a_page_is_whole(bucket: str, faults: Faults, s3: Path) -> None:
    (s3 / bucket / "many").mkdir()
    for n in range(1100):
        (s3 / bucket / "many" / f"{n:04d}.png").touch()
    assert list(S3Storage(bucket, "many").list()) == [f"{n:04d}.png" for n in range(1100)]
    assert sum("list-type=2" in request.path for request in faults.seen) >= 2


@pytest.mark.parametrize(
    ("encryption", "expected"),
    [
        (None, (None, None)),
        ("AES256", ("AES256", None)),
        ("aws:kms", ("aws:kms", None)),
        ("aws:kms:key-7", ("aws:kms", "key-7")),
    ],
)
def test_encryption_is_asked_for_every_object(
    bucket: str, faults: Faults, encryption: str | None, expected: tuple[str | None, ...]
) -> None:
    open_storage(f"s3://{bucket}/x", encryption).write("a.png", b"data")
    (put,) = [request for request in faults.seen if request.method == "PUT"]
    header = "x-amz-server-side-encryption"
    assert (put.headers.get(header), put.headers.get(f"{header}-aws-kms-key-id")) == expected


@pytest.mark.parametrize("wrong", ["aes", "AES512", "kms:x", "aws:kmsx"])
def test_an_unknown_encryption_is_refused(wrong: str) -> None:
    with pytest.raises(DeidError, match=r"encryption.*unknown"):
        open_storage("s3://bucket/x", wrong)


# ---- whole batches


def contents(storage: Storage) -> dict[str, bytes]:
    names = [n for n in storage.list() if not n.startswith(PRIVATE) and n not in (LEDGER, SEAL)]
    return {name: storage.read(name) for name in names}


@pytest.fixture
def undisturbed(tmp_path: Path, pipeline: Pipeline) -> dict[str, bytes]:
    """What the batch below leaves when nothing fails."""
    source = LocalStorage(tmp_path / "in")
    for n, name in enumerate(NAMES):
        source.write(name, picture(n))
    places = locate(str(tmp_path / "in"), str(tmp_path / "whole"))
    run_batch(places, lambda p: InProcess(pipeline, p))
    return contents(LocalStorage(tmp_path / "whole"))


@pytest.fixture
def inputs(bucket: str, undisturbed: dict[str, bytes]) -> Storage:
    storage = S3Storage(bucket, "in")
    for n, name in enumerate(NAMES):
        storage.write(name, picture(n))
    return storage


def run(bucket: str, pipeline: Pipeline) -> Summary:
    places = locate(f"s3://{bucket}/in", f"s3://{bucket}/out")
    return run_batch(places, lambda p: InProcess(pipeline, p))


def test_a_batch_through_a_failing_network_is_the_same(
    bucket: str,
    inputs: Storage,
    faults: Faults,
    pipeline: Pipeline,
    undisturbed: dict[str, bytes],
) -> None:
    chance, kinds = random.Random(3), ["500", "503", "reset", "half", "unsaid"]

    def choose(request: Request) -> str:
        return chance.choice(kinds) if chance.random() < 0.15 else ""

    faults.choose = choose
    summary = run(bucket, pipeline)
    faults.choose = lambda _: ""
    assert summary.counts == {"written": len(NAMES)}
    assert contents(S3Storage(bucket, "out")) == undisturbed


def test_an_object_that_cannot_be_read_is_not_written_and_done_next_time(
    bucket: str,
    inputs: Storage,
    faults: Faults,
    pipeline: Pipeline,
    undisturbed: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(s3_module, "ATTEMPTS", 2)
    faults.always("500", method="GET", path="in/1/4.png")
    assert run(bucket, pipeline).counts == {"written": len(NAMES) - 1, "quarantined": 1}
    faults.always("")
    assert run(bucket, pipeline).counts == {"done": len(NAMES) - 1, "written": 1}
    assert contents(S3Storage(bucket, "out")) == undisturbed


@pytest.mark.parametrize(
    ("kind", "method", "said"),
    [("expired", "", "ExpiredToken"), ("500", "PUT", "InternalError"), ("500", "GET", "in a row")],
)
def test_a_batch_whose_storage_ends_midway_says_so_and_goes_on_later(
    bucket: str,
    inputs: Storage,
    faults: Faults,
    pipeline: Pipeline,
    undisturbed: dict[str, bytes],
    kind: str,
    method: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(s3_module, "ATTEMPTS", 2)
    monkeypatch.setattr(run_module, "MOST_UNREACHABLE", 2)
    outputs = iter(range(100))

    def choose(request: Request) -> str:
        if request.method == "PUT" and request.path.endswith(".png"):
            next(outputs)
        broken = outputs.__length_hint__() <= 97 and method in ("", request.method)
        return kind if broken else ""

    faults.choose = choose
    with pytest.raises(DeidError, match=said) as raised:
        run(bucket, pipeline)
    assert len(str(raised.value).splitlines()) == 1
    assert "test-secret" not in str(raised.value)
    faults.always("")
    left = contents(S3Storage(bucket, "out"))
    assert 2 <= len(left) < len(NAMES)
    assert all(data == undisturbed[name] for name, data in left.items())
    summary = run(bucket, pipeline)
    assert summary.counts.total() == len(NAMES)
    assert not summary.failed
    assert contents(S3Storage(bucket, "out")) == undisturbed


def test_objects_say_what_they_are(bucket: str, faults: Faults) -> None:
    for name in ("a.png", "b.JPG", "c.heic", "d.webp", "e.jsonl", "f"):
        S3Storage(bucket, "deep").write(name, b"data")
    puts = [request for request in faults.seen if request.method == "PUT"]
    assert [request.headers.get("content-type") for request in puts] == [
        "image/png",
        "image/jpeg",
        "image/heic",
        "image/webp",
        "application/x-ndjson",
        "application/octet-stream",
    ]


def test_a_lease_keeps_a_second_run_out_and_needs_no_permission_to_delete(
    bucket: str, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_seconds_left", SECONDS_LEFT)
    first, second = S3Storage(bucket, "out"), S3Storage(bucket, "out")
    with first.exclusive():
        taken = next(request for request in faults.seen if request.method == "PUT")
        assert taken.headers.get("if-none-match") == "*"
        with pytest.raises(DeidError, match=r"another run is at work .*run again in \d+ s"):
            lease.take(second, "other")
    with second.exclusive():
        pass
    assert not any(request.method == "DELETE" for request in faults.seen)


def test_a_run_that_lost_its_lease_writes_no_record(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused, other = S3Storage(bucket, "out"), S3Storage(bucket, "out")
    monkeypatch.setattr(lease, "LEASE_SECONDS", 9.0)  # renewed every 3 seconds
    with paused.exclusive():
        paused.write("manifest.jsonl", b"ours")
        with other.exclusive():  # as after a pause of `paused` that was longer than its lease
            wait_until(lambda: is_refused(paused), 60, "the loss is noticed")
            other.write("manifest.jsonl", b"theirs")
    assert other.read("manifest.jsonl") == b"theirs"
    assert lease._read(other)["seconds"] == 0, "the first run's end leaves the other's lease alone"


def test_a_run_that_cannot_renew_its_lease_writes_no_record(
    bucket: str, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 2.0)
    storage = S3Storage(bucket, "out")
    with storage.exclusive():
        faults.always("denied", path=lease.LEASE)
        wait_until(lambda: is_refused(storage), 30, "the lease runs out")


def is_refused(storage: Storage) -> bool:
    try:
        storage.write("manifest.jsonl", b"ours")
    except StorageFailure as error:
        return "another run may be at work" in str(error)
    return False


def test_a_source_that_forbids_every_read_ends_the_batch(
    bucket: str,
    inputs: Storage,
    faults: Faults,
    pipeline: Pipeline,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_module, "MOST_UNREACHABLE", 3)
    faults.always("denied", method="GET", path=".png")
    with pytest.raises(StorageFailure, match=r"3 inputs in a row: .*AccessDenied"):
        run(bucket, pipeline)


def test_a_file_that_comes_between_look_and_write_is_kept(
    bucket: str, inputs: Storage, faults: Faults, pipeline: Pipeline
) -> None:
    faults.always("taken", method="PUT", path="out/1/4.png")
    summary = run(bucket, pipeline)
    assert summary.counts == {"written": len(NAMES) - 1, "quarantined": 1}
    assert "another file came to the output's name meanwhile" in summary.text()
    faults.always("")
    assert run(bucket, pipeline).counts == {"done": len(NAMES) - 1, "written": 1}


def test_what_a_dead_process_wrote_late_does_not_stay_unrecorded(
    bucket: str, s3: Path, faults: Faults, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time for `a` is over once its request is sent; that reaches the server when `b` comes."""
    for name in ("a.png", "b.png"):
        S3Storage(bucket, "in").write(name, picture(1))
    late, other = s3 / bucket / "out/a.png", threading.Event()
    sender = threading.get_ident()

    def choose(request: Request) -> str:
        if request.method == "PUT" and request.path.endswith("out/a.png"):
            signal.pthread_kill(sender, signal.SIGALRM)
            other.wait(120)
        if request.method == "PUT" and request.path.endswith("out/b.png"):
            other.set()
            wait_until(late.exists, 30, "the late request arrives")
        return ""

    monkeypatch.setattr(s3_module, "READ_TIMEOUT", 60.0)
    faults.choose = choose
    places = locate(f"s3://{bucket}/in", f"s3://{bucket}/out")
    summary = run_batch(places, lambda p: InProcess(pipeline, p, timeout=60.0))
    assert summary.counts == {"written": 1, "quarantined": 1}
    left = contents(S3Storage(bucket, "out"))
    assert "b.png" in left
    assert "a.png" not in left


def test_a_mistyped_prefix_is_named_and_leaves_nothing(
    bucket: str, pipeline: Pipeline, tmp_path: Path
) -> None:
    places = locate(f"s3://{bucket}/mistyped", str(tmp_path / "out"))
    with pytest.raises(DeidError, match="mistyped: nothing is there; correct the path"):
        run_batch(places, lambda p: InProcess(pipeline, p))
    assert not (tmp_path / "out").exists()


FORGED = {
    "record": {"file": "0/0.png", "status": "written", "output": "0/0.png"},
    "versions": ["x", "y"],
    "time": "2026-01-01T00:00:00+00:00",
}


def test_records_in_a_bucket_are_of_one_source_and_of_one_key(
    bucket: str, inputs: Storage, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEID_AUDIT_KEY", "k" * 64)
    run(bucket, pipeline)
    out = S3Storage(bucket, "out")
    sealed = out.read(MANIFEST)
    out.write(".deid/manifest.journal-0.jsonl", json.dumps(FORGED).encode())
    assert run(bucket, pipeline).counts == {"done": len(NAMES)}
    assert out.read(MANIFEST) == sealed
    S3Storage(bucket, "other").write("0/0.png", picture(99))
    places = locate(f"s3://{bucket}/other", f"s3://{bucket}/out")
    with pytest.raises(DeidError, match=r"of another source than s3://.*/other; choose another"):
        run_batch(places, lambda p: InProcess(pipeline, p), prune=True)
    places = locate(f"s3://{bucket}//in/", f"s3://{bucket}/out/")
    assert run_batch(places, lambda p: InProcess(pipeline, p)).counts == {"done": len(NAMES)}


def test_no_preview_stays_beside_an_output_in_a_bucket(bucket: str, pipeline: Pipeline) -> None:
    S3Storage(bucket, "in").write("a.png", picture(1))
    draws = build_pipeline(RunSettings(method="mask", dry_run=True), toy_world(), None)

    def alone(name: str, made_by: Pipeline) -> Summary:
        places = locate(f"s3://{bucket}/in/a.png", f"s3://{bucket}/out/{name}")
        return run_batch(places, lambda p: InProcess(made_by, p))

    assert alone("a.png", draws).counts == {"previewed": 1}
    assert "a.png.preview.png" in contents(S3Storage(bucket, "out"))
    assert alone("safe.png", pipeline).counts == {"written": 1}
    assert set(contents(S3Storage(bucket, "out"))) == {"safe.png"}
    for name in ("", "b.png"):
        with pytest.raises(DeidError, match="holds outputs, and previews show original faces"):
            alone(name, draws)
