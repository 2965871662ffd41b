"""Real servers on loopback, and one that stands before them and breaks what passes."""

import http.client
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

KEY, SECRET = "test-key", "test-secret"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(ready: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.1)


@contextmanager
def service(command: list[str], log: Path, **options: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of our own for as long as the block runs."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, **options)
        try:
            yield process
        finally:
            family = []
            if process.poll() is None:
                own = psutil.Process(process.pid)
                family = [own, *own.children(True)]
                process.terminate()
            _, stubborn = psutil.wait_procs(family, timeout=20)
            for member in stubborn:  # a worker's flow runs have sessions of their own
                with suppress(psutil.NoSuchProcess):  # it ended with its parent
                    member.kill()
            process.wait()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def listens(process: "subprocess.Popen[bytes]", port: int) -> bool:
    """Whether this server answers already. One that ended, perhaps because another process took its
    port meanwhile, never will."""
    assert process.poll() is None, f"the server ended with code {process.returncode}"
    return answers(port)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """rclone's S3 server, which checks signatures; yields the folder that it serves."""
    folder, port = tmp_path_factory.mktemp("s3"), free_port()
    rclone = Path(sys.executable).with_name("rclone")
    command = [str(rclone), "serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}"]
    settings = {
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    log = tmp_path_factory.mktemp("log") / "rclone.log"
    with (
        service([*command, "--auth-key", f"{KEY},{SECRET}"], log) as process,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in settings.items():
            patch.setenv(name, value)
        wait_until(lambda: listens(process, port), 60, f"rclone listens; {log}")
        yield folder


@dataclass
class Request:
    """What a client asked for, as the faulty proxy sees it."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Faults:
    """A proxy that asks `choose` of every request what to do to it; "" is nothing.

    Before the server: `500`, `503`, `denied`, `expired`, `taken`, `unconditional` answer in its
    place, `reset` hangs up, `stall` keeps silent. After it: `half` and `damaged` spoil its body,
    `unsaid` hangs up although all was done.
    """

    upstream: int
    choose: Callable[[Request], str] = lambda request: ""
    seen: list[Request] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def next(self, *kinds: str, method: str = "GET", path: str = "") -> None:
        """One kind for each of the next requests of that method whose path holds `path`."""
        waiting = list(kinds)

        def choose(request: Request) -> str:
            asked = request.method == method and path in request.path
            return waiting.pop(0) if waiting and asked else ""

        self.choose = choose

    def always(self, kind: str, method: str = "", path: str = "") -> None:
        """That kind for all such requests."""
        self.choose = lambda r: kind if method in ("", r.method) and path in r.path else ""


ERROR = "<?xml version='1.0'?><Error><Code>{}</Code><Message>{}</Message></Error>"
ANSWERS = {
    "500": (500, "InternalError", "We encountered an internal error"),
    "503": (503, "SlowDown", "Please reduce your request rate"),
    "taken": (412, "PreconditionFailed", "At least one of the pre-conditions did not hold"),
    "unconditional": (501, "NotImplemented", "A header you provided is not implemented"),
    "denied": (403, "AccessDenied", "Access Denied"),
    "expired": (400, "ExpiredToken", "The provided token has expired"),
}


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faults: Faults

    def handle_one(self) -> None:
        faults = self.faults
        request = Request(self.command, self.path, {k.lower(): v for k, v in self.headers.items()})
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        faults.seen.append(request)
        kind = faults.choose(request)
        if kind in ANSWERS:
            status, code, said = ANSWERS[kind]
            text = b"" if self.command == "HEAD" else ERROR.format(code, said).encode()
            self.answer(status, [("Content-Type", "application/xml")], text, len(text))
            return
        if kind == "stall":
            faults.stop.wait(8)
        if kind in ("reset", "stall"):
            self.hang_up()
            return
        upstream = http.client.HTTPConnection("127.0.0.1", faults.upstream, timeout=60)
        upstream.request(self.command, self.path, body, dict(self.headers.items()))
        response = upstream.getresponse()
        data = response.read()
        upstream.close()
        if kind == "unsaid":
            self.hang_up()
            return
        length = int(response.headers.get("Content-Length") or len(data))
        if kind == "damaged":
            place = len(faults.seen) % len(data)  # no damage is twice the same
            data = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        if kind == "half":
            data = data[: len(data) // 2]
        skipped = ("content-length", "transfer-encoding", "connection")
        headers = [(k, v) for k, v in response.headers.items() if k.lower() not in skipped]
        self.answer(response.status, headers, data, length)
        if kind == "half":
            self.hang_up()

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_one

    def answer(self, status: int, headers: list[tuple[str, str]], data: bytes, length: int) -> None:
        self.send_response_only(status)
        for name, value in [*headers, ("Content-Length", str(length))]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def faults(s3: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    """The S3 server behind a proxy that can be told to fail; who tries again waits 10 ms."""
    import os

    from botocore.retries.standard import ExponentialBackoff

    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: 0.01)
    upstream = int(os.environ["AWS_ENDPOINT_URL_S3"].rpartition(":")[2])
    told = Faults(upstream)
    handler = type("Handler", (_Proxy,), {"faults": told})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
        yield told
        told.stop.set()
        server.shutdown()
