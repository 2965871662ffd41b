"""uvicorn with a service in it: what is slow to send is cut off, and the end loses no request."""

import asyncio
import logging
import socket
import time
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from deid.batch.in_memory import Bounds
from deid.batch.settings import RunSettings
from deid.batch.workers import Worker
from deid.errors import DeidError
from deid.registry.choice import Chosen
from deid.serve.app import create_app
from deid.serve.choice import Choice
from deid.serve.logs import to_standard_error
from deid.serve.service import ModelBody, Service
from deid.serve.settings import ServeSettings
from deid.serve.work import begin, default_settings

log = logging.getLogger(__name__)
CONNECTIONS = 64  # beside those whose pictures are accepted
GRACE = 0.5  # seconds in which connections made before the end are still answered


class _Patient(H11Protocol):
    """Closes a connection whose next request has begun and does not get on, or whose answer nobody
    reads: uvicorn itself waits for ever. (What follows the head has its limit in `reading`.)"""

    seconds = ServeSettings.receive
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        if self._deadline is None and self._is_between():
            self._await_head()
        super().data_received(data)
        if self._deadline is not None and not self._is_between():
            self._deadline.cancel()
            self._deadline = None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_reader(0)

    def _watch_reader(self, unread: int) -> None:
        """Give up a client that has read nothing for so long of what it was answered."""
        left = self.transport.get_write_buffer_size()
        if left and left == unread:
            self.transport.abort()
        elif left:
            self.loop.call_later(self.seconds, self._watch_reader, left)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _is_between(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _await_head(self) -> None:
        self._deadline = self.loop.call_later(self.seconds, self.transport.abort)


class _Server(uvicorn.Server):
    """At the first signal it takes no more work, finishes what it has, and ends."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._since: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        edge = self._service.edge
        if edge is None or edge.ending:
            return super().handle_exit(sig, frame)  # again: now
        edge.ending, self._since = True, time.monotonic()
        log.info("ending", extra={"accepted": self._service.pool.accepted})
        return None

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second; True ends it."""
        if self._since is not None and time.monotonic() > self._since + GRACE:
            self.should_exit = self.should_exit or not self._service.pool.accepted
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for bound in server.sockets:
                host, port = bound.getsockname()[:2]
                log.info("listening", extra={"url": f"http://{host}:{port}/"})


def serve(limits: ServeSettings, asked: RunSettings, choice: Choice) -> None:
    """Serve until a signal comes; `DeidError` where the model or the address is not to be had."""
    to_standard_error()
    chosen = choice.now()
    settings = default_settings(asked, chosen.bundle, limits.timeout)
    failed: list[DeidError] = []
    application, service = create_app(
        limits, settings, lambda service: _run(service, asked, choice, chosen, server, failed)
    )
    config = uvicorn.Config(
        application,
        host=limits.host,
        port=limits.port,
        http=type("_Patient", (_Patient,), {"seconds": limits.receive}),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS + limits.jobs + limits.queue,
        h11_max_incomplete_event_size=16 * 1024,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=max(1, round(2 * limits.timeout)),
    )
    server = _Server(config, service)
    try:
        server.run()
    except OSError as error:
        raise DeidError(f"{limits.host}:{limits.port}: {error.strerror or error}") from None
    except SystemExit:
        raise DeidError(
            f"{limits.host}:{limits.port}: cannot be listened on; give another --port"
        ) from None
    if failed:
        raise failed[0]


async def _run(
    service: Service,
    asked: RunSettings,
    choice: Choice,
    chosen: Chosen,
    server: _Server,
    failed: list[DeidError],
) -> None:
    """Start the workers, then follow the alias for as long as the service lives."""
    try:
        await _use(service, asked, chosen)
    except (DeidError, OSError) as error:
        failed.append(DeidError(str(error)))
        server.should_exit = True
        return
    while service.serve.reload and choice.moves:
        await asyncio.sleep(service.serve.reload)
        try:
            newer = await asyncio.to_thread(choice.newer, chosen)
            if newer is not None:
                await _use(service, asked, newer)
                chosen = newer
        except (DeidError, OSError) as error:
            log.error("kept the present model", extra={"reason": str(error)})


async def _use(service: Service, asked: RunSettings, chosen: Chosen) -> None:
    """Answer with another model from now on."""
    limits, bundle = service.serve, chosen.bundle
    bounds = Bounds(limits.max_pixels, limits.max_faces)
    settings = default_settings(asked, bundle, limits.timeout)
    model, batch = chosen.name, limits.batch
    start = partial(Worker, partial(begin, bundle, settings, bounds, model, batch))
    ready = await service.pool.use(start)
    service.settings = settings
    service.model = ModelBody(
        name=chosen.name,
        version=chosen.version,
        run_id=chosen.run_id,
        content_sha256=chosen.content_sha256,
        world=ready.world,
        methods=list(ready.methods),
        default_method=settings.method,
    )
    log.info("model", extra={"model": chosen.name, "content_sha256": chosen.content_sha256})
