"""What a service is started with, beside what shapes a picture (`RunSettings`)."""

from dataclasses import dataclass

from deid.batch.settings import TIMEOUT
from deid.errors import DeidError
from deid.option import check_number, option

MOST_BYTES = 2**40
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class ServeSettings:
    """Where it listens, who may ask, and what one request may cost."""

    host: str = option("127.0.0.1", "The address to listen on.")
    port: int = option(8000, "The port to listen on; 0: any that is free.")
    tokens: str | None = option(
        None, "File of SHA-256 hashes of bearer tokens, one a line, a name after it; read anew."
    )
    open: bool = option(
        False, "Let anybody who reaches it ask; needed without --tokens on an outside address."
    )
    jobs: int = option(1, "Worker processes; each holds the networks.")
    queue: int = option(16, "Pictures that may wait for a worker; more are answered with 503.")
    batch: int = option(
        1, "Pictures that a worker makes together, where so many wait; 1: each by itself."
    )
    max_bytes: int = option(20_000_000, "Bytes of one encoded picture.")
    max_pixels: int = option(25_000_000, "Pixels of one picture.")
    max_faces: int = option(50, "Faces of one picture.")
    no_keep: bool = option(
        False, "No request may leave a face as it is: `keep` is refused, and the page has it not."
    )
    rate: float = option(0.0, "Requests a second from one client, twice as many at once; 0: any.")
    timeout: float = option(
        TIMEOUT,
        "Seconds after which a picture is given up; after half of them, unless --time-limit says "
        "otherwise, its faces are masked.",
    )
    receive: float = option(30.0, "Seconds in which a request must be here.")
    reload: float = option(
        30.0, "Seconds between looks for another champion or previous model; 0: never."
    )

    def __post_init__(self) -> None:
        for name in ("jobs", "batch", "max_faces", "timeout", "receive"):
            check_number(name, getattr(self, name))
        for name in ("max_bytes", "max_pixels"):
            check_number(name, getattr(self, name), most=MOST_BYTES)
        for name in ("queue", "rate", "reload"):
            check_number(name, getattr(self, name), zero=True)
        check_number("port", self.port, zero=True, most=2**16 - 1)
        if self.host not in LOOPBACK and self.tokens is None and not self.open:
            raise DeidError(
                f"--host {self.host}: other machines may reach it; give --tokens FILE, or --open "
                "to let anybody ask"
            )
