"""What a service is started with, beside what shapes a picture (`RunSettings`)."""

from dataclasses import dataclass, field
from typing import Any

from deid.batch.settings import TIMEOUT
from deid.errors import DeidError

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _asked(default: Any, help_text: str, *options: str) -> Any:
    return field(default=default, metadata={"help": help_text, "options": options})


@dataclass(frozen=True)
class ServeSettings:
    """Where it listens, who may ask, and what one request may cost."""

    host: str = _asked("127.0.0.1", "The address to listen on.")
    port: int = _asked(8000, "The port to listen on; 0: any that is free.")
    tokens: str | None = _asked(
        None, "File of SHA-256 hashes of bearer tokens, one a line, a name after it; read anew."
    )
    open: bool = _asked(
        False, "Let anybody who reaches it ask; needed without --tokens on an outside address."
    )
    jobs: int = _asked(1, "Worker processes; each holds the networks.")
    queue: int = _asked(16, "Pictures that may wait for a worker; more are answered with 503.")
    max_bytes: int = _asked(20_000_000, "Bytes of one encoded picture.")
    max_pixels: int = _asked(25_000_000, "Pixels of one picture.")
    max_faces: int = _asked(50, "Faces of one picture.")
    rate: float = _asked(0.0, "Requests a second from one client, twice as many at once; 0: any.")
    timeout: float = _asked(
        TIMEOUT,
        "Seconds after which a picture is given up; after half of them, unless --time-limit says "
        "otherwise, its faces are masked.",
    )
    receive: float = _asked(30.0, "Seconds in which a request must be here.")
    reload: float = _asked(
        30.0, "Seconds between looks for another champion or previous model; 0: never."
    )

    def __post_init__(self) -> None:
        for name in ("jobs", "max_bytes", "max_pixels", "max_faces", "timeout", "receive"):
            if not getattr(self, name) > 0:
                option = name.replace("_", "-")
                raise DeidError(f"--{option} {getattr(self, name):g}: must be more than 0")
        for name in ("queue", "rate", "reload"):
            if not getattr(self, name) >= 0:
                raise DeidError(f"--{name} {getattr(self, name):g}: must not be less than 0")
        if self.host not in LOOPBACK and self.tokens is None and not self.open:
            raise DeidError(
                f"--host {self.host}: other machines may reach it; give --tokens FILE, or --open "
                "to let anybody ask"
            )
