"""From a result to a response: the picture itself, JSON, or an archive of several."""

import base64
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from deid.gate.record import FaceRecord
from deid.imaging.codec import SUFFIXES
from deid.serve.problems import STATUS_OF, Problem
from deid.serve.work import Made, Refusal

PNG = b"\x89PNG"
_KINDS = (
    (0, b"\xff\xd8", "image/jpeg", ".jpg"),
    (0, PNG, "image/png", ".png"),
    (8, b"WEBP", "image/webp", ".webp"),
    (8, b"avif", "image/avif", ".avif"),
    (4, b"ftyp", "image/heic", ".heic"),
    (0, b"GIF8", "image/gif", ".gif"),
    (0, b"BM", "image/bmp", ".bmp"),
    (0, b"II*\0", "image/tiff", ".tif"),
    (0, b"MM\0*", "image/tiff", ".tif"),
    (4, b"jP  ", "image/jp2", ".jp2"),
    (0, b"P", "image/x-portable-anymap", ".ppm"),
)
"""Where an encoded picture says what it is; the first that fits."""


class FaceBody(BaseModel):
    """What became of one face."""

    box: tuple[int, int, int, int] = Field(description="x0, y0, x1, y1 in pixels, upright")
    method: str = Field(description="what its pixels were made by, or kept")
    verdict: Literal["verified", "masked", "kept"]
    similarities: dict[str, float] = Field(
        description="cosine of original and output in each recognizer"
    )
    level: int = Field(description="how many fallback levels were tried; 1: the method itself")
    found: Literal["detector", "sweep"]

    @classmethod
    def of(cls, face: FaceRecord) -> "FaceBody":
        return cls(
            box=face.box,
            method=face.method,
            verdict=face.verdict,  # type: ignore[arg-type]
            similarities=dict(face.similarities),
            level=face.level,
            found=face.found,  # type: ignore[arg-type]
        )


class PictureBody(BaseModel):
    """A safe picture; `image` is base64 of the file that was judged, without metadata."""

    image: str
    media_type: str = Field(examples=["image/jpeg"])
    verdict: Literal["verified", "masked", "kept", "no face"]
    level: int = Field(description="the most fallback levels that any face needed")
    faces: list[FaceBody]
    notes: list[str] = Field(description="what of the original could not come back")
    model: str = Field(examples=["face-deid version 3"])

    @classmethod
    def of(cls, made: Made) -> "PictureBody":
        result = made.result
        return cls(
            image=base64.b64encode(result.data).decode(),
            media_type=media_type(result.data)[0],
            verdict=result.verdict,  # type: ignore[arg-type]
            level=result.level,
            faces=[FaceBody.of(face) for face in result.faces],
            notes=list(result.notes),
            model=made.model,
        )


class ItemBody(BaseModel):
    """One picture of a batch, in the order sent: `picture`, or why there is none."""

    status: int
    picture: PictureBody | None = None
    file: Annotated[str | None, Field(description="its name in the archive")] = None
    code: str | None = None
    detail: str | None = None


class BatchBody(BaseModel):
    """Each picture ends by itself: one that is refused withholds no other."""

    results: list[ItemBody]


@dataclass(frozen=True)
class Failure:
    """A picture of a batch that came to nothing."""

    problem: Problem


def refused(refusal: Refusal) -> Problem:
    """The problem that a refusal is."""
    return Problem(STATUS_OF.get(refusal.code, 422), refusal.code, refusal.detail)


def media_type(data: bytes) -> tuple[str, str]:
    """Of an encoded picture, and the suffix of a file of it."""
    for at, mark, kind, suffix in _KINDS:
        if data[at : at + len(mark)] == mark:
            assert suffix in SUFFIXES
            return kind, suffix
    return "application/octet-stream", ".tga"


def wants(accept: str, kind: str) -> bool:
    """Whether an Accept header names a media type, by itself."""
    return any(part.partition(";")[0].strip().lower() == kind for part in accept.split(","))


def picture_answer(made: Made, accept: str) -> Response:
    """One picture: itself with its verdict in headers, or JSON if `accept` names that."""
    if wants(accept, "application/json"):
        return JSONResponse(PictureBody.of(made).model_dump())
    result = made.result
    headers = {
        "X-Deid-Verdict": result.verdict,
        "X-Deid-Faces": str(len(result.faces)),
        "X-Deid-Level": str(result.level),
        "X-Deid-Model": made.model.encode("ascii", "replace").decode(),
    }
    return Response(result.data, media_type=media_type(result.data)[0], headers=headers)


def batch_answer(results: Sequence[Made | Failure], accept: str) -> Response:
    """Several: JSON, or a zip archive of the pictures with `results.json` if `accept` names it."""
    archive = wants(accept, "application/zip")
    items = [_item(result, number if archive else None) for number, result in enumerate(results, 1)]
    body = BatchBody(results=items).model_dump()
    if not archive:
        return JSONResponse(body)
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w", zipfile.ZIP_STORED) as file:
        file.writestr("results.json", json.dumps(body, indent=1))
        for item, result in zip(items, results, strict=True):
            if item.file is not None and isinstance(result, Made):
                file.writestr(item.file, result.result.data)
    return Response(stored.getvalue(), media_type="application/zip")


def _item(end: Made | Failure, number: int | None) -> ItemBody:
    if isinstance(end, Failure):
        problem = end.problem
        return ItemBody(status=problem.status, code=problem.code, detail=problem.detail)
    picture = PictureBody.of(end)
    if number is None:
        return ItemBody(status=200, picture=picture)
    name = f"{number:04d}{media_type(end.result.data)[1]}"
    return ItemBody(status=200, picture=picture.model_copy(update={"image": ""}), file=name)
