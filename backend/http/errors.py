"""Errors as answers: one JSON form for everything that goes wrong, A1111's with a `field`."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request

from backend import errors
from backend.errors import EmulsionError, NotSupported, RequestError, UnknownName

_HTTP_ERRORS = {
    404: "NotFound",
    405: "MethodNotAllowed",
    413: "BodyTooLarge",
    415: "NotJson",
    503: "ServerStopping",
}


def add_error_answers(app: FastAPI) -> None:
    """Make `app` answer every error in that form."""

    def emulsion_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, EmulsionError)
        field = error.field if isinstance(error, RequestError) else ""
        return error_answer(status_of(type(error)), type(error).__name__, str(error), field)

    def http_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        answer = error_answer(error.status_code, _HTTP_ERRORS.get(error.status_code, "HTTPException"), error.detail)
        answer.headers.update(error.headers or {})
        return answer

    def malformed(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        field = str(first["loc"][-1]) if first["loc"] else ""
        return error_answer(422, "RequestError", f"{field}: {first['msg']}", field)

    def internal_error(_: Request, error: Exception) -> JSONResponse:
        detail = f"An internal error occurred ({type(error).__name__}); the server's log tells more."
        return error_answer(500, "InternalError", detail)

    app.add_exception_handler(EmulsionError, emulsion_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(Exception, internal_error)


def error_answer(status: int, error: str, detail: str, field: str = "") -> JSONResponse:
    content = {"error": error, "detail": detail, "body": "", "errors": detail, "field": field}
    return JSONResponse(content, status_code=status)


def status_of(kind: type[EmulsionError]) -> int:
    """422 for what the caller can mend, 501 for what nobody can, 5xx for what failed here."""
    if issubclass(kind, NotSupported):
        return 501
    if issubclass(kind, errors.DiskFull):
        return 507
    callers = (RequestError, UnknownName, errors.AmbiguousName, errors.FileError, errors.UnsupportedMerge)
    return 422 if issubclass(kind, callers) else 500


def failed_job_answer(kind: str, message: str) -> JSONResponse:
    """The answer for a job that failed with the error class called `kind`."""
    found: object = vars(errors).get(kind)
    if isinstance(found, type) and issubclass(found, EmulsionError):
        return error_answer(status_of(found), kind, message)
    return error_answer(500, kind, message)
