"""The routes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import PlainTextResponse, Response

from deid import __version__
from deid.batch.settings import RunSettings
from deid.serve import problems
from deid.serve.answers import (
    BatchBody,
    Failure,
    PictureBody,
    batch_answer,
    picture_answer,
)
from deid.serve.edge import Edge, Rate
from deid.serve.metrics import Counters
from deid.serve.options import PictureOptions, RequestOptions
from deid.serve.pool import Pool
from deid.serve.problems import DOCUMENTED, Problem
from deid.serve.reading import FORM
from deid.serve.service import ModelsBody, Service
from deid.serve.settings import ServeSettings
from deid.serve.tokens import Tokens
from deid.serve.work import Made

PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/page/compare.js": ("compare.js", "text/javascript; charset=utf-8"),
    "/page/style.css": ("style.css", "text/css; charset=utf-8"),
    "/page/icon.svg": ("icon.svg", "image/svg+xml"),
}
ABOUT = (
    "Makes the faces in pictures unrecognizable and verifies each result; a picture that cannot be "
    "made safe is withheld. Nothing that is sent is kept, logged or passed on."
)
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_ONE = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": _BINARY,
            FORM: {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}
_SEVERAL = {
    "requestBody": {
        "required": True,
        "content": {
            FORM: {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "properties": {
                        "images": {
                            "type": "array",
                            "minItems": 1,
                            "items": {"type": "string", "format": "binary"},
                        }
                    },
                }
            }
        },
    }
}

_ONE_SAFE = DOCUMENTED | {
    200: {
        "description": "The picture in its own format, with X-Deid-Verdict, X-Deid-Faces, "
        "X-Deid-Level and X-Deid-Model; or JSON, if Accept names it.",
        "content": {
            "image/*": _BINARY,
            "application/json": {"schema": PictureBody.model_json_schema()},
        },
    }
}
_SEVERAL_SAFE = DOCUMENTED | {
    200: {
        "description": "For each picture what became of it; a zip archive of the pictures, if "
        "Accept names application/zip.",
        "content": {
            "application/json": {"schema": BatchBody.model_json_schema()},
            "application/zip": _BINARY,
        },
    }
}


Begin = Callable[[Service], Coroutine[Any, Any, None]]


def create_app(serve: ServeSettings, settings: RunSettings, begin: Begin) -> tuple[Edge, Service]:
    """The ASGI application. `begin` starts what it needs, and runs until the service ends."""
    pool = Pool(serve.jobs, serve.queue, serve.timeout, serve.batch)
    service = Service(serve, settings, pool, Counters(pool))

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(begin(service))
        yield
        task.cancel()
        await pool.close()

    app = FastAPI(
        title="deid",
        version=__version__,
        description=ABOUT,
        lifespan=life,
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
    )
    problems.install(app)
    _pictures(app, service)
    _state(app, service)
    _page(app)
    tokens = Tokens(Path(serve.tokens)) if serve.tokens else None
    service.edge = Edge(app, service.metrics, tokens, Rate(serve.rate), pool)
    return service.edge, service


def _pictures(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/anonymize",
        response_class=Response,
        summary="One picture, safe",
        openapi_extra=_ONE,
        responses=_ONE_SAFE,
    )
    async def anonymize(request: Request, options: Annotated[PictureOptions, Query()]) -> Response:
        service.present()
        settings = options.settings(service.settings)
        boxes = service.may_keep(options.boxes())
        with service.room(request, 1):
            (data,) = await service.received(request, 1)
            made = await service.picture(data, settings, boxes)
        request.state.verdict, request.state.faces = made.result.verdict, len(made.result.faces)
        return picture_answer(made, request.headers.get("accept", ""))

    @app.post(
        "/v1/batch",
        response_class=Response,
        summary="Several pictures, each by itself",
        openapi_extra=_SEVERAL,
        responses=_SEVERAL_SAFE,
    )
    async def batch(request: Request, options: Annotated[RequestOptions, Query()]) -> Response:
        service.present()
        most = service.most
        settings = options.settings(service.settings)

        async def one(data: bytes) -> Made | Failure:
            try:
                return await service.picture(data, settings)
            except Problem as problem:
                return Failure(problem)

        with service.room(request, most):
            pictures = await service.received(request, most)
            results = await asyncio.gather(*map(one, pictures))
        return batch_answer(results, request.headers.get("accept", ""))


def _state(app: FastAPI, service: Service) -> None:
    limits = service.serve

    @app.get("/v1/models", summary="What is served, by what limits", responses=_only(401, 429, 503))
    async def models() -> ModelsBody:
        return ModelsBody(
            models=[service.present()],
            max_bytes=limits.max_bytes,
            max_pixels=limits.max_pixels,
            max_faces=limits.max_faces,
            max_batch=service.most,
            may_keep=not limits.no_keep,
        )

    @app.get("/healthz", summary="The process lives", response_class=PlainTextResponse)
    async def health() -> str:
        return "ok\n"

    @app.get(
        "/readyz",
        summary="Pictures can be made",
        response_class=PlainTextResponse,
        responses=_only(503),
    )
    async def ready() -> str:
        if service.edge is not None and service.edge.ending:
            raise Problem(503, "ending", "the service is shutting down", 5)
        if not service.pool.is_ready:
            raise Problem(503, "not_ready", "no worker is ready", 5)
        return f"{service.present().name}\n"

    @app.get(
        "/metrics",
        summary="For Prometheus",
        response_class=PlainTextResponse,
        responses=_only(401, 429, 503),
    )
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _only(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: DOCUMENTED[status] for status in statuses}


def _page(app: FastAPI) -> None:
    for path, (name, kind) in PAGE.items():

        def answer(name: str = name, kind: str = kind) -> Response:
            return Response(_file(name), media_type=kind)

        app.add_api_route(path, answer, include_in_schema=False, response_class=Response)


@cache
def _file(name: str) -> bytes:
    return files("deid.serve").joinpath("page", name).read_bytes()
