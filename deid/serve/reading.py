"""Pictures out of a request: raw bytes or a form, bounded, in time, and never on a disk."""

import asyncio
from collections.abc import AsyncGenerator

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from deid.serve.problems import Problem

FORM = "multipart/form-data"
RAW = "application/octet-stream"
OVERHEAD = 4096  # of a form, around each of its pictures


class _InMemory(MultiPartParser):
    """Starlette's parser puts parts of more than a megabyte into temporary files."""

    spool_max_size = 2**62
    max_file_size = spool_max_size


async def read_pictures(request: Request, most: int, max_bytes: int, seconds: float) -> list[bytes]:
    """The pictures of a request, at least one and at most `most` of `max_bytes` each."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != FORM and not kind.startswith("image/") and kind != RAW:
        raise Problem(
            415,
            "unsupported_media_type",
            f"send the picture as image/*, or in a form ({FORM}), with that Content-Type",
        )
    room = max_bytes if kind != FORM else most * (max_bytes + OVERHEAD)
    body = await _body(request, room, seconds)
    pictures = [body] if kind != FORM else await _parts(request.headers, body, most)
    if not pictures or not all(pictures):
        raise Problem(422, "not_a_picture", "the request has no picture in it")
    if max(map(len, pictures)) > max_bytes:
        raise _too_large(max_bytes)
    return pictures


def _too_large(most: int) -> Problem:
    return Problem(413, "too_many_bytes", f"at most {most:,} bytes")


async def _body(request: Request, room: int, seconds: float) -> bytes:
    stated = request.headers.get("content-length", "0")
    if stated.isdecimal() and int(stated) > room:
        raise _too_large(room)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > room:
                    raise _too_large(room)
    except TimeoutError:
        raise Problem(408, "too_slow_to_arrive", f"not all here within {seconds:g} s") from None
    except ClientDisconnect:
        raise Problem(400, "cut_off", "the connection ended within the request") from None
    return bytes(body)


async def _parts(headers: Headers, body: bytes, most: int) -> list[bytes]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    try:
        parser = _InMemory(headers, stream(), max_files=most, max_fields=8)
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        said = str(getattr(error, "message", "")) or "damaged"
        raise Problem(400, "bad_form", f"not a readable form: {said[:100]}") from None
    pictures = []
    for _, part in form.multi_items():
        if not isinstance(part, UploadFile):
            raise Problem(422, "bad_option", "a form holds files only; put options into the query")
        pictures.append(await part.read())
    return pictures
