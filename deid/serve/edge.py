"""What holds for every request, whatever its route: an id, security headers, who asks and how
often, a line in the log, the count; and nothing new once the service is ending."""

import logging
import re
import secrets
import time
from collections import OrderedDict
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deid.errors import DeidError
from deid.serve.metrics import Counters
from deid.serve.pool import Pool
from deid.serve.problems import Problem, fault
from deid.serve.tokens import Tokens

log = logging.getLogger("deid.serve.access")
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
GUARDED = ("/v1/", "/metrics")
PICTURES = ("/v1/anonymize", "/v1/batch")
MOST_CLIENTS = 10_000  # whose rate is remembered
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; manifest-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}


class Rate:
    """How often each client may ask: `rate` a second, twice as many at once. 0: any."""

    def __init__(self, rate: float) -> None:
        self._rate, self._burst = rate, max(1.0, 2 * rate)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str) -> float:
        """Seconds until `client` may ask again; 0: this time it may."""
        if not self._rate:
            return 0.0
        now = time.monotonic()
        left, since = self._left.pop(client, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._rate)
        may = left >= 1.0
        self._left[client] = (left - 1.0 if may else left, now)
        if len(self._left) > MOST_CLIENTS:
            self._left.popitem(last=False)
        return 0.0 if may else (1.0 - left) / self._rate


class Edge:
    """ASGI, around the routes."""

    def __init__(
        self, app: ASGIApp, metrics: Counters, tokens: Tokens | None, rate: Rate, pool: Pool
    ) -> None:
        self._app, self._metrics, self._tokens, self._rate = app, metrics, tokens, rate
        self._pool = pool
        self.ending = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else secrets.token_hex(8)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        facts: dict[str, Any] = {"status": 500, "sent": 0}
        began = time.monotonic()

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                facts["status"] = message["status"]
                self._dress(MutableHeaders(scope=message), request_id)
            elif message["type"] == "http.response.body":
                facts["sent"] += len(message.get("body", b""))
            await send(message)

        try:
            problem = self._refused(scope, headers)
            if problem is None:
                await self._app(scope, receive, sending)
            else:
                state["code"] = problem.code
                await problem.response(request_id)(scope, receive, sending)
        except Exception:
            log.error("failed", exc_info=True, extra={"request_id": request_id})
            if facts["status"] == 500 and not facts["sent"]:
                await fault().response(request_id)(scope, receive, sending)
        finally:
            self._record(scope, request_id, facts, time.monotonic() - began)

    def _refused(self, scope: Scope, headers: Headers) -> Problem | None:
        """Why a request gets no further."""
        if not scope["path"].startswith(GUARDED):
            return None
        if self.ending:
            return Problem(503, "ending", "the service is shutting down", 5)
        client = (scope.get("client") or ("unknown",))[0]
        if self._tokens is not None:
            kind, _, token = headers.get("authorization", "").partition(" ")
            try:
                owner = self._tokens.owner(token.strip()) if kind.lower() == "bearer" else None
            except DeidError as error:
                log.error("no tokens", extra={"reason": str(error)})
                return Problem(503, "no_tokens", "the service cannot read its tokens", 60)
            if owner is None:
                return Problem(401, "unauthorized", "give a bearer token that this service knows")
            client = scope["state"]["client"] = owner
        if wait := self._rate.wait(client):
            return Problem(429, "too_many_requests", "slow down", max(1.0, wait))
        # Not by its route, which costs more than all else of a refusal: an overloaded service has
        # no time for it. Nothing of the request's body is read.
        if self._pool.is_full and scope["method"] == "POST" and scope["path"] in PICTURES:
            return self._pool.overloaded()
        return None

    def _dress(self, headers: MutableHeaders, request_id: str) -> None:
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        headers["X-Request-Id"] = request_id
        if self.ending:
            headers["Connection"] = "close"

    def _record(self, scope: Scope, request_id: str, facts: dict[str, Any], seconds: float) -> None:
        refused = scope["path"] if scope["path"] in PICTURES else "other"  # never what was asked
        route = getattr(scope.get("route"), "path", refused)
        self._metrics.requests.labels(route, str(facts["status"])).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        state = scope["state"]
        if code := state.get("code"):
            self._metrics.refusals.labels(code).inc()
        extra = {
            "request_id": request_id,
            "method": scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else "other",
            "route": route,
            "status": facts["status"],
            "ms": round(1000 * seconds, 1),
            "bytes_out": facts["sent"],
            **{
                name: state[name]
                for name in ("client", "code", "verdict", "faces")
                if name in state
            },
        }
        log.info("request", extra=extra)
