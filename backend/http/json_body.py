"""Bodies that hold a JSON object."""

from __future__ import annotations

import json
from typing import Annotated, Any, cast

from fastapi import Depends
from starlette.exceptions import HTTPException
from starlette.requests import Request

from backend.errors import RequestError


async def read_json_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object, in which every number is finite.

    Raises RequestError, and HTTPException (415) for a body that does not claim to be JSON: what a form on a foreign
    page can send is none of ours.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().casefold()
    if kind != "application/json":
        raise HTTPException(415, "Send JSON, with the header Content-Type: application/json.")
    try:
        content: object = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise RequestError("body", f"is not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise RequestError("body", f"must be a JSON object, not {type(content).__name__}")
    body = cast(dict[str, Any], content)
    for field, value in body.items():
        _check_finite(field, value)
    return body


def _check_finite(field: str, value: object) -> None:
    """Python reads NaN and Infinity, which are no JSON."""
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise RequestError(field[:100], "holds a number that is not finite, or is nested too deeply") from error


JsonObject = Annotated[dict[str, Any], Depends(read_json_object)]
