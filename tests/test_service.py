"""`deid serve`, a real one on loopback: what clients get, and what hostile ones do not."""

import base64
import io
import json
import os
import secrets
import signal
import socket
import subprocess
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from deid import api
from tests.servers import wait_until
from tests.serving import PAIR, SAMPLES, Served, pixels, png, serving
from tests.test_codec import REFUSED

RECEIVE = 2.0
MOST = 400_000  # bytes of a picture
TOKEN = secrets.token_hex(32)
FORM = {"image": ("a.png", PAIR.read_bytes(), "image/png")}
PNG = {"content-type": "image/png"}
JSON = {"accept": "application/json"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("serve")
    tokens = folder / "tokens"
    tokens.write_text(f"# who may ask\n{sha256(TOKEN.encode()).hexdigest()} alice\n")
    limits = ("--receive", str(RECEIVE), "--max-bytes", str(MOST), "--max-faces", "3")
    with serving(folder, "--tokens", str(tokens), *limits, "--max-pixels", "400000") as server:
        yield server


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client(headers={"authorization": f"Bearer {TOKEN}"}) as client:
        yield client


def original_faces(answer: dict[str, Any], data: bytes) -> list[float]:
    """Of each face of an answer, how far its middle is from the original, in gray values."""
    before, after = (pixels(d).astype(int) for d in (data, base64.b64decode(answer["image"])))
    differences = []
    for face in answer["faces"]:
        x0, y0, x1, y1 = face["box"]
        dx, dy = (x1 - x0) // 4, (y1 - y0) // 4
        middle = slice(y0 + dy, y1 - dy), slice(x0 + dx, x1 - dx)
        differences.append(float(np.abs(before[middle] - after[middle]).mean()))
    return differences


def test_raw_bytes_forms_and_python_give_the_same_safe_picture(client: httpx.Client) -> None:
    data = PAIR.read_bytes()
    raw = client.post("/v1/anonymize?method=blur", content=data, headers=PNG)
    form = client.post("/v1/anonymize?method=blur", files=FORM)
    told = client.post("/v1/anonymize?method=blur", files=FORM, headers=JSON).json()
    assert raw.status_code == 200
    assert raw.headers["content-type"] == "image/png"
    assert raw.headers["x-deid-verdict"] == told["verdict"] == "verified"
    assert raw.headers["x-deid-faces"] == "2"
    assert raw.headers["x-deid-level"] == str(told["level"])
    assert raw.content == form.content == base64.b64decode(told["image"])
    assert raw.content == api.deidentify(data, "blur", world="mini").data
    assert [set(face["similarities"]) != set() for face in told["faces"]] == [True, True]
    assert min(original_faces(told, data)) > 5
    before, after = pixels(data).astype(int), pixels(raw.content).astype(int)
    assert np.array_equal(before[:8, :60], after[:8, :60])


def test_curl_makes_a_picture_safe(served: Served, tmp_path: Path) -> None:
    out = tmp_path / "safe.png"
    command = ["curl", "-sS", "--fail", "-F", f"image=@{PAIR}", "-o", str(out)]
    command += ["-H", f"Authorization: Bearer {TOKEN}", f"{served.url}v1/anonymize?method=mask"]
    subprocess.run(command, check=True)
    assert (pixels(out.read_bytes()) != pixels(PAIR.read_bytes())).any()


def test_a_face_that_a_person_keeps_stays_and_the_others_do_not(client: httpx.Client) -> None:
    data = PAIR.read_bytes()
    first = client.post("/v1/anonymize?method=pixelate", files=FORM, headers=JSON).json()
    one, other = (face["box"] for face in first["faces"])
    params = {"method": "pixelate", "keep": ",".join(map(str, one))}
    kept = client.post("/v1/anonymize", params=params, files=FORM, headers=JSON).json()
    assert [face["verdict"] for face in kept["faces"]] == ["kept", "verified"]
    assert kept["verdict"] == "verified"
    stays, goes = original_faces(kept, data)
    assert stays == 0.0
    assert goes > 5
    assert kept["faces"][1]["box"] == other


@pytest.mark.parametrize("box", ["0,0,20,20", "-5,-5,99999,99999", "60,100,150,210"])
def test_a_box_to_keep_without_its_face_withholds_the_picture(
    client: httpx.Client, box: str
) -> None:
    params = {"method": "mask", "keep": box}
    answer = client.post("/v1/anonymize", params=params, files=FORM)
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_face")


def test_one_box_keeps_one_face_however_often_it_is_named(client: httpx.Client) -> None:
    first = client.post("/v1/anonymize?method=mask", files=FORM, headers=JSON).json()
    box = ",".join(map(str, first["faces"][0]["box"]))
    params = {"method": "mask", "keep": [box, box]}
    answer = client.post("/v1/anonymize", params=params, files=FORM)
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_face")


def test_a_batch_tells_of_each_picture_and_one_that_is_refused_withholds_no_other(
    client: httpx.Client,
) -> None:
    files = [("images", ("a.png", data)) for data in (PAIR.read_bytes(), b"no", PAIR.read_bytes())]
    answer = client.post("/v1/batch?method=mask", files=files)
    results = answer.json()["results"]
    assert [item["status"] for item in results] == [200, 422, 200]
    assert results[1]["code"] == "not_a_picture"
    assert results[1]["picture"] is None
    zipped = client.post(
        "/v1/batch?method=mask", files=files, headers={"accept": "application/zip"}
    )
    with zipfile.ZipFile(io.BytesIO(zipped.content)) as archive:
        assert archive.namelist() == ["results.json", "0001.png", "0003.png"]
        assert archive.read("0001.png") == base64.b64decode(results[0]["picture"]["image"])
        assert [r["status"] for r in json.loads(archive.read("results.json"))["results"]] == [
            200,
            422,
            200,
        ]


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_whole_picture_is_a_problem_and_no_picture(
    client: httpx.Client, kind: str
) -> None:
    answer = client.post("/v1/anonymize?method=mask", content=REFUSED[kind](), headers=PNG)
    assert answer.status_code in (413, 422)
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(answer.json()) == {"type", "status", "code", "detail", "request_id"}


def chunks(size: int) -> Iterator[bytes]:
    for _ in range(size // 10_000 + 1):
        yield bytes(10_000)


@pytest.mark.parametrize(
    ("query", "sent", "status", "code"),
    [
        ("method=magic", {"files": FORM}, 422, "bad_option"),
        ("method=mask&tint=red", {"files": FORM}, 422, "bad_option"),
        ("seed=-1", {"files": FORM}, 422, "bad_option"),
        ("method=swap", {"files": FORM}, 422, "bad_option"),
        ("", {"files": FORM, "data": {"method": "mask"}}, 422, "bad_option"),
        ("", {"files": {}, "content": b"", "headers": PNG}, 422, "not_a_picture"),
        ("", {"content": b"<html>", "headers": {"content-type": "text/html"}}, 415, None),
        ("", {"content": b"--", "headers": {"content-type": "multipart/form-data"}}, 400, None),
        ("", {"files": [("i", ("a", b"1")), ("i", ("b", b"2"))]}, 400, "bad_form"),
        ("", {"content": bytes(MOST + 1), "headers": PNG}, 413, "too_many_bytes"),
        ("", {"content": chunks(MOST), "headers": PNG}, 413, "too_many_bytes"),
        (
            "method=mask",
            {"content": png(np.zeros((700, 700, 3), np.uint8)), "headers": PNG},
            413,
            "too_many_pixels",
        ),
        (
            "method=mask",
            {"content": png(np.zeros((90, 90, 3), np.uint8)), "headers": PNG},
            422,
            "no_face",
        ),
        (
            "method=mask",
            {"content": (SAMPLES / "team.png").read_bytes(), "headers": PNG},
            422,
            "too_many_faces",
        ),
    ],
)
def test_what_is_asked_wrongly_or_too_large_is_refused_with_its_code(
    client: httpx.Client, query: str, sent: dict[str, Any], status: int, code: str | None
) -> None:
    answer = client.post(f"/v1/anonymize?{query}", **sent)
    assert answer.status_code == status, answer.text
    assert code in (None, answer.json()["code"])
    assert answer.headers["content-type"] == "application/problem+json"


def test_nobody_asks_without_a_token_and_no_token_or_content_is_in_the_log(
    served: Served, client: httpx.Client
) -> None:
    wrong = secrets.token_hex(32)
    for headers in ({}, {"authorization": f"Bearer {wrong}"}, {"authorization": f"Basic {TOKEN}"}):
        for path in ("/v1/models", "/metrics", "/v1/nothing"):
            answer = httpx.get(served.url.rstrip("/") + path, headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    named = {"image": ("grandmother.png", PAIR.read_bytes(), "image/png")}
    ours = {"x-request-id": "ours-1"}
    client.post("/v1/anonymize?method=mask&keep=11,22,33,44", files=named, headers=ours)
    # A line is written once its answer is sent.
    wait_until(lambda: '"ours-1"' in served.log.read_text(), 30, "the line of the request")
    log = served.log.read_text()
    for secret in (TOKEN, wrong, sha256(TOKEN.encode()).hexdigest(), "grandmother", "11,22"):
        assert secret not in log
    (line,) = (line for line in served.lines() if line.get("request_id") == "ours-1")
    assert (line["client"], line["status"], line["code"]) == ("alice", 422, "unknown_face")
    assert line["route"] == "/v1/anonymize"


def test_every_answer_has_an_id_and_security_headers_and_allows_no_other_site(
    served: Served, client: httpx.Client
) -> None:
    ids = set()
    for path in ("/", "/healthz", "/readyz", "/v1/models", "/nothing", "/openapi.json"):
        answer = client.get(path, headers={"origin": "https://elsewhere.example"})
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert not [name for name in answer.headers if name.startswith("access-control")]
        ids.add(answer.headers["x-request-id"])
    assert len(ids) == 6
    bad = client.get("/healthz", headers={"x-request-id": 'a"}, {"b": 1'})
    assert '"' not in bad.headers["x-request-id"]


def test_what_is_served_and_counted_can_be_read(client: httpx.Client) -> None:
    told = client.get("/v1/models").json()
    assert told["max_bytes"] == MOST
    (model,) = told["models"]
    assert (model["world"], model["default_method"]) == ("mini", "blur")
    assert "mask" in model["methods"]
    assert client.get("/healthz").text == "ok\n"
    assert client.get("/readyz").status_code == 200

    def masked() -> float:
        text = client.get("/metrics").text
        lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
        return float(lines.get('deid_faces_total{method="mask",verdict="masked"}', 0))

    before = masked()
    client.post("/v1/anonymize?method=mask", files=FORM)
    assert masked() == before + 2


def connected(served: Served) -> socket.socket:
    url = httpx.URL(served.url)
    return socket.create_connection((url.host, url.port or 80), timeout=20)


def closed_after(connection: socket.socket, sent: bytes) -> tuple[float, bytes]:
    """Seconds from before `sent` goes out until the other end closes, and what it said."""
    began, said = time.monotonic(), b""
    try:
        connection.sendall(sent)
        while more := connection.recv(65536):
            said += more
    except ConnectionError:
        pass
    return time.monotonic() - began, said


AUTH = f"Authorization: Bearer {TOKEN}\r\n".encode()


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"POST /v1/anonymize HT",
        b"POST /v1/anonymize HTTP/1.1\r\nHost: a\r\nX-Slow: ",
    ],
    ids=["nothing", "half a line", "half a head"],
)
def test_half_a_head_is_cut_off_in_time(served: Served, head: bytes) -> None:
    with connected(served) as connection:
        seconds, _ = closed_after(connection, head)
        assert seconds < RECEIVE + 3


def test_half_a_body_is_answered_in_time(served: Served) -> None:
    head = b"POST /v1/anonymize HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\n"
    with connected(served) as connection:
        sent = head + AUTH + b"Content-Length: 1000\r\n\r\nabc"
        seconds, said = closed_after(connection, sent)
        assert said.startswith(b"HTTP/1.1 408")
        assert RECEIVE - 0.5 < seconds < RECEIVE + 8


def test_a_head_that_trickles_is_cut_off(served: Served) -> None:
    with connected(served) as connection:
        began = time.monotonic()
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        with suppress(ConnectionError):
            while time.monotonic() < began + 20:
                connection.sendall(b"X-A: b\r\n")
                time.sleep(0.2)
        assert time.monotonic() - began < RECEIVE + 5


@pytest.mark.parametrize("header", [b"X-A: b\r\n" * 20_000, b"X-A: " + b"b" * 200_000 + b"\r\n"])
def test_a_flood_of_headers_is_refused(served: Served, header: bytes) -> None:
    with connected(served) as connection:
        sent = b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + header + b"\r\n"
        _, said = closed_after(connection, sent)
        assert said == b"" or said.startswith(b"HTTP/1.1 400")


def test_a_client_that_leaves_takes_nothing_along(served: Served, client: httpx.Client) -> None:
    data = PAIR.read_bytes()
    head = b"POST /v1/anonymize?method=mask HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\n"
    for part in (data, data[: len(data) // 2]):
        with connected(served) as connection:
            connection.sendall(head + AUTH + f"Content-Length: {len(data)}\r\n\r\n".encode() + part)
    assert client.post("/v1/anonymize?method=mask", files=FORM).status_code == 200
    text = client.get("/metrics").text
    assert "deid_workers_lost 0.0" in text


def test_a_killed_worker_costs_its_picture_only(served: Served, client: httpx.Client) -> None:
    """The last test with this server but one: it waits for another worker."""
    worker = the_worker(served)
    worker.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(client.post, "/v1/anonymize?method=mask", files=FORM)
        wait_until(lambda: accepted(client) == 1, 30, "a picture")
        os.kill(worker.pid, signal.SIGKILL)
        answer = asked.result()
    assert (answer.status_code, answer.json()["code"]) == (503, "worker_lost")
    assert int(answer.headers["retry-after"]) > 0
    assert client.post("/v1/anonymize?method=mask", files=FORM).status_code == 200


def test_no_file_is_left_and_nothing_was_a_fault(served: Served) -> None:
    """The last test with this server."""
    left = [path for path in served.folder.rglob("*") if not path.is_socket()]
    assert all(path.name.startswith("pymp-") and path.is_dir() for path in left), left
    statuses = {line["status"] for line in served.lines() if line["message"] == "request"}
    assert not statuses & {500, 502, 504}
    assert not [line for line in served.lines() if line["level"] == "error"]


def gauge(client: httpx.Client, name: str) -> int:
    lines = client.get("/metrics").text.splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name} "))
    return int(float(line.split()[1]))


def test_pictures_made_together_are_safe_and_one_by_one_where_their_worker_is_killed(
    tmp_path: Path,
) -> None:
    data = [(SAMPLES / f"{name}.png").read_bytes() for name in ("pair", "portrait", "close")]
    files = [("images", ("a.png", each)) for each in (*data, b"no picture")]
    with serving(tmp_path, "--batch", "4") as server, server.client() as client:

        def ask(method: str) -> list[dict[str, Any]]:
            asked = client.post(f"/v1/batch?method={method}", files=files)
            return list(asked.json()["results"])

        masked, blurred = ask("mask"), ask("blur")
        assert [item["status"] for item in masked + blurred] == [200, 200, 200, 422] * 2
        assert gauge(client, "deid_pictures_together") == 8
        for item, each in zip(masked, data, strict=False):
            alone = api.deidentify(each, "mask", world="mini").data
            assert base64.b64decode(item["picture"]["image"]) == alone
        for item, each in zip(blurred, data, strict=False):
            got = pixels(base64.b64decode(item["picture"]["image"])).astype(int)
            alone = pixels(api.deidentify(each, "blur", world="mini").data)
            assert item["picture"]["verdict"] == "verified"
            assert np.abs(got - alone).max() <= 3
        worker = the_worker(server)
        worker.send_signal(signal.SIGSTOP)
        with ThreadPoolExecutor(1) as thread:
            asked = thread.submit(ask, "mask")
            wait_until(lambda: accepted(client) == 4, 30, "four pictures")
            os.kill(worker.pid, signal.SIGKILL)
            again = asked.result()
        assert again == masked
        assert gauge(client, "deid_workers_lost") == 1
        assert gauge(client, "deid_pictures_together") == 8


def the_worker(server: Served) -> psutil.Process:
    """The process that nobody is started from, but for the one that cleans up after all."""
    family = psutil.Process(server.pid).children(recursive=True)
    last = [one for one in family if not one.children()]
    (worker,) = (one for one in last if "resource_tracker" not in " ".join(one.cmdline()))
    return worker


def accepted(client: httpx.Client) -> int:
    return gauge(client, "deid_accepted_pictures")


def ending(client: httpx.Client) -> bool:
    answer = client.get("/readyz")
    return (answer.status_code, answer.json().get("code")) == (503, "ending")


@contextmanager
def holding(worker: psutil.Process) -> Iterator[None]:
    """Lets no picture be made, else the first may be done before the last is sent."""
    worker.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        worker.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("batch", ["1", "3"])
def test_overload_is_answered_at_once_and_sigterm_loses_no_accepted_picture(
    tmp_path: Path, batch: str
) -> None:
    options = ("--queue", "4", "--batch", batch)
    with serving(tmp_path, *options) as server, server.client() as client:
        url = f"{server.url}v1/anonymize?method=mask"
        data, refused = PAIR.read_bytes(), []
        worker = the_worker(server)

        def ask() -> int:
            answer = httpx.post(url, content=data, headers=PNG, timeout=120)
            if answer.status_code == 503:
                assert int(answer.headers["retry-after"]) > 0
                refused.append(answer)
            else:
                assert (pixels(answer.content) != pixels(data)).any()
            return answer.status_code

        with ThreadPoolExecutor(16) as threads:
            with holding(worker):
                asked = [threads.submit(ask) for _ in range(16)]
                wait_until(lambda: len(refused) == 11, 30, "all but five are refused meanwhile")
            assert sorted(future.result() for future in asked) == [200] * 5 + [503] * 11
        assert client.post("/v1/anonymize?method=mask", files=FORM).status_code == 200
        with ThreadPoolExecutor(5) as threads:
            with holding(worker):
                asked = [threads.submit(ask) for _ in range(5)]
                wait_until(lambda: accepted(client) == 5, 30, "five pictures")
                server.process.send_signal(signal.SIGTERM)
                wait_until(lambda: ending(client), 30, "the server is ending")
            assert [future.result() for future in asked] == [200] * 5
        assert server.process.wait(60) == 0
    assert server.lines()[-1]["level"] == "info"
