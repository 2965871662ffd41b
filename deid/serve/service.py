"""What the routes work with: the model, the pool, and how much a request may hold."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi import Request
from pydantic import BaseModel, Field

from deid.batch.in_memory import Box
from deid.batch.settings import RunSettings
from deid.serve.answers import refused
from deid.serve.edge import Edge
from deid.serve.metrics import Counters
from deid.serve.pool import Pool
from deid.serve.problems import Problem
from deid.serve.reading import OVERHEAD, read_pictures
from deid.serve.settings import ServeSettings
from deid.serve.work import Made, PictureRequest, Refusal


class ModelBody(BaseModel):
    """The model that answers."""

    name: str = Field(examples=["face-deid version 3 (champion)"])
    version: str | None = Field(description="of the registered model")
    run_id: str | None
    content_sha256: str
    world: str
    methods: list[str]
    default_method: str


class ModelsBody(BaseModel):
    """What is served, and what a request may have."""

    models: list[ModelBody]
    max_bytes: int
    max_pixels: int
    max_faces: int
    max_batch: int
    may_keep: bool = Field(description="whether a request may leave a face as it is (`keep`)")


@dataclass
class Service:
    """What the routes work with. `model`: what is served now; None until it is ready."""

    serve: ServeSettings
    settings: RunSettings
    pool: Pool
    metrics: Counters
    model: ModelBody | None = None
    edge: Edge | None = None
    held: int = 0  # bytes of the requests that are not answered yet

    @contextmanager
    def room(self, request: Request, most: int) -> Iterator[None]:
        """Memory for the bytes of a request until it is answered; `Problem`, before any of it is
        read, where others have it all."""
        stated, whole = request.headers.get("content-length", ""), self._bytes_of(most)
        size = min(int(stated), whole) if stated.isdecimal() else whole
        if self.held + size > self._bytes_of(self.most):
            raise self.pool.overloaded()
        self.held += size
        try:
            yield
        finally:
            self.held -= size

    @property
    def most(self) -> int:
        """Pictures of one request: a batch must find room where nobody else is."""
        return self.serve.jobs + self.serve.queue

    def _bytes_of(self, pictures: int) -> int:
        return pictures * (self.serve.max_bytes + OVERHEAD)

    def may_keep(self, boxes: tuple[Box, ...]) -> tuple[Box, ...]:
        """`boxes` whose faces a request leaves as they are; `Problem` where none may."""
        if boxes and self.serve.no_keep:
            raise Problem(403, "keep_forbidden", "this service leaves no face as it is")
        return boxes

    async def received(self, request: Request, most: int) -> list[bytes]:
        """The pictures of a request, at most `most`; or `Problem`."""
        return await read_pictures(request, most, self.serve.max_bytes, self.serve.receive)

    async def picture(self, data: bytes, settings: RunSettings, keep: tuple[Box, ...] = ()) -> Made:
        """A safe picture, or `Problem`."""
        answer = await self.pool.run(PictureRequest(data, settings, keep))
        if isinstance(answer, Refusal):
            raise refused(answer)
        self.metrics.count(answer.result)
        return answer

    def present(self) -> ModelBody:
        """The model; `Problem` before there is one. A worker that is replaced is waited for."""
        if self.model is None:
            raise Problem(503, "not_ready", "no worker is ready yet", 5)
        return self.model
