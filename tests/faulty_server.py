"""A web server on loopback that serves bytes and, asked to, misbehaves in one way at a time."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """One path: its bytes, and how each request in turn is spoilt ("" or nothing left: not)."""

    data: bytes
    etag: str | None = '"one"'
    modified: str | None = None
    ranges: bool = True
    kind: str = "application/octet-stream"
    faults: list[str] = field(default_factory=list)
    rate: int | None = None  # bytes a second
    asked: list[str | None] = field(default_factory=list)  # the Range of each request
    conditions: list[str | None] = field(default_factory=list)  # and its If-Range


class FaultyServer:
    """Paths and what they serve; `url(path)` is the address."""

    def __init__(self) -> None:
        self.paths: dict[str, Served] = {}
        self.stop = threading.Event()
        outer = self

        class Handler(_Handler):
            server_of_paths = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False

    def serve(self, path: str, data: bytes, **more: object) -> str:
        """Serve `data` at `path`; the address."""
        self.paths[f"/{path}"] = Served(data, **more)  # type: ignore[arg-type]
        return f"http://127.0.0.1:{self._server.server_port}/{path}"

    def asked(self, path: str) -> list[str | None]:
        return self.paths[f"/{path}"].asked

    @contextmanager
    def running(self) -> Iterator["FaultyServer"]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.stop.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of_paths: FaultyServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        served = self.server_of_paths.paths.get(self.path)
        if served is None:
            return self.send_error(404)
        served.asked.append(self.headers.get("Range"))
        served.conditions.append(self.headers.get("If-Range"))
        fault = served.faults.pop(0) if served.faults else ""
        self.close_connection = True
        if fault.isdecimal():
            return self.send_error(int(fault))
        if fault.startswith("redirect "):
            self.send_response(302)
            self.send_header("Location", fault.split()[1])
            self.send_header("Content-Length", "0")
            return self.end_headers()
        return self._send(served, fault)

    def _send(self, served: Served, fault: str) -> None:
        start = self._start(served, fault)
        if start >= len(served.data) and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(served.data)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        body = served.data[start:]
        self.send_response(206 if start else 200)
        if start:
            said = start + 7 if fault == "other range" else start
            last = len(served.data) - 1
            self.send_header("Content-Range", f"bytes {said}-{last}/{len(served.data)}")
        if fault != "no length":
            extra = {"promises more": 1000, "promises less": -1000}.get(fault, 0)
            self.send_header("Content-Length", str(len(body) + extra))
        for name, value in (("ETag", served.etag), ("Last-Modified", served.modified)):
            if value:
                self.send_header(name, value)
        self.send_header("Content-Type", served.kind)
        self.end_headers()
        return self._write(body, served, fault)

    def _start(self, served: Served, fault: str) -> int:
        asked, condition = self.headers.get("Range"), self.headers.get("If-Range")
        current = condition in (None, served.etag, served.modified) or fault == "ignores If-Range"
        if not asked or not served.ranges or not current:
            return 0
        return int(asked.removeprefix("bytes=").rstrip("-"))

    def _write(self, body: bytes, served: Served, fault: str) -> None:
        try:
            if fault in ("cut", "stall"):
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                if fault == "stall":
                    self.server_of_paths.stop.wait(60)
                return
            for at in range(0, len(body), 4096):
                self.wfile.write(body[at : at + 4096])
                if served.rate:
                    time.sleep(4096 / served.rate)
        except (BrokenPipeError, ConnectionResetError):
            pass
