"""What is answered instead of a picture: RFC 9457 problems, which repeat nothing of the request."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

MEDIA_TYPE = "application/problem+json"
STATUS_OF = {"too_many_pixels": 413, "bad_option": 422}
"""The status of a `Refusal` by its code; else 422."""


class ProblemBody(BaseModel):
    """A problem; `code` is one word for programs, `detail` a sentence for people."""

    type: str = "about:blank"
    status: int
    code: str = Field(examples=["no_face"])
    detail: str = Field(examples=["the picture: no face found; allow_no_face=True lets it pass"])
    request_id: str = ""


class Problem(Exception):
    """Ends a request."""

    def __init__(
        self, status: int, code: str, detail: str, retry_after: float | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.retry_after = status, code, detail, retry_after

    def response(self, request_id: str = "") -> Response:
        """The answer, with `Retry-After` where it is worth to come again."""
        body = ProblemBody(
            status=self.status, code=self.code, detail=self.detail, request_id=request_id
        )
        headers = {} if self.retry_after is None else {"Retry-After": f"{self.retry_after:.0f}"}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(body.model_dump(), self.status, headers=headers, media_type=MEDIA_TYPE)


def fault() -> Problem:
    """The service's own."""
    return Problem(500, "failed", "the service has a fault; its log has the request id")


_SAID = {
    400: "the request is broken",
    401: "no or an unknown bearer token",
    403: "the operator lets no request keep a face",
    408: "the request took too long to arrive",
    413: "too many bytes or pixels",
    415: "neither a picture nor a form with one",
    422: "not a picture, an unknown option, no face in it, or it could not be made safe",
    429: "too many requests from this client; see Retry-After",
    503: "overloaded, not ready, or the picture took too long; see Retry-After",
}
DOCUMENTED: dict[int | str, dict[str, Any]] = {
    status: {
        "description": said,
        "content": {MEDIA_TYPE: {"schema": ProblemBody.model_json_schema()}},
    }
    for status, said in _SAID.items()
}


def install(app: FastAPI) -> None:
    """Answer every error of a route in this form."""

    def answered(request: Request, problem: Problem) -> Response:
        request.state.code = problem.code
        return problem.response(getattr(request.state, "request_id", ""))

    @app.exception_handler(Problem)
    async def own(request: Request, error: Problem) -> Response:
        return answered(request, error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return answered(request, Problem(422, "bad_option", f"{where}: {first['msg']}"))

    @app.exception_handler(Exception)
    async def other(request: Request, error: Exception) -> Response:
        return answered(request, fault())  # and Starlette raises it again, for the log

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
        response = answered(request, Problem(error.status_code, code, str(error.detail)))
        response.headers.update(error.headers or {})
        return response
