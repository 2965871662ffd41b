"""A `deid serve` of our own, of the mini world, on loopback; and the pictures sent to it."""

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.conftest import ROOT
from tests.servers import service, wait_until

SAMPLES = ROOT / "data/samples"
PAIR = SAMPLES / "pair.png"
START = 300.0  # seconds that loading torch twice may take on a busy machine


@dataclass(frozen=True)
class Served:
    """A running server: `log` is what it wrote, `folder` where it runs and keeps nothing."""

    url: str
    pid: int
    log: Path
    folder: Path
    process: Any

    def lines(self) -> list[dict[str, Any]]:
        """Its log."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=120, **options)


@contextmanager
def serving(
    folder: Path, *options: str, ready: bool = True, project: Path | None = None
) -> Iterator[Served]:
    """`deid serve --world mini --rendered` with further `options`; in a `project`, what that has
    for rendered pictures."""
    work, log = project or folder / "work", folder / "serve.log"
    work.mkdir(exist_ok=True)
    command = [str(Path(sys.executable).with_name("deid")), "serve", "--rendered", "--port", "0"]
    command += options if project else ("--world", "mini", *options)
    with service(command, log, cwd=work, env=_environment(work)) as process:

        def said(message: str) -> list[dict[str, Any]]:
            assert process.poll() is None, log.read_text()
            lines = [line for line in log.read_text().splitlines() if line.startswith("{")]
            return [line for line in map(json.loads, lines) if line["message"] == message]

        wait_until(lambda: bool(said("listening")), START, "a listening server")
        url = said("listening")[0]["url"]
        if ready:
            wait_until(lambda: bool(said("model")), START, "a worker")
        yield Served(url, process.pid, log, work, process)


def _environment(folder: Path) -> dict[str, str]:
    import os

    return {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}


def pixels(data: bytes) -> NDArray[np.uint8]:
    """`uint8 [H,W,3]`."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def png(array: NDArray[np.uint8]) -> bytes:
    stored = io.BytesIO()
    Image.fromarray(array).save(stored, "PNG")
    return stored.getvalue()
