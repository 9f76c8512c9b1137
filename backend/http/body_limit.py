"""No request may fill the memory: bodies have a largest size."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.http.errors import error_answer

MAX_BODY_BYTES = 96 * 2**20  # a picture of 64 MiB in base64, and what is written around it
_TOO_LARGE = f"The body is larger than {MAX_BODY_BYTES // 2**20} MiB."


class BodyLimit:
    """ASGI middleware that answers 413 to bodies of more than 96 MiB, whether they say how long they are or not."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > MAX_BODY_BYTES:
            await error_answer(413, "BodyTooLarge", _TOO_LARGE)(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                raise HTTPException(413, _TOO_LARGE)  # to whoever is reading the body
            return message

        await self._app(scope, counted, send)
