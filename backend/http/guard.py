"""The one door: every request to page, interfaces, files and events passes it, and every answer leaves through it.

A web page elsewhere must not be able to drive a server on this machine, so a request is refused when
- its Host is no name of ours: a foreign name was bound to our address (DNS rebinding);
- it comes from the page of another site, or of another program on this machine (cross-site request forgery), unless it
  goes to an interface and the site was allowed by name;
- a password is set and it brings none.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.http.security import Security

# Gradio compiles its templates in the browser, hence unsafe-inline and unsafe-eval; nothing may come from, or go to,
# another site.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_HOST = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::\d{1,5})?")
_READING = ("GET", "HEAD")
_SECONDS_PER_GUESS = 0.1
_INTERFACES = ("/api/", "/sdapi/")
_SIGN_IN = "A password is needed. Open the address that the server printed when it started, or send the password."


@dataclass(frozen=True, kw_only=True)
class Refusal:
    status: int
    error: str
    detail: str


class Guard:
    """ASGI middleware for HTTP and websockets."""

    def __init__(self, app: ASGIApp, security: Security) -> None:
        self._app = app
        self._security = security
        self._one_guess = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        guest = _welcome_origin(scope, headers, self._security)
        send = _with_headers(send, SECURITY_HEADERS | ({} if guest is None else _for_guest(guest)))
        refusal = _foreign_host(headers, self._security) or (None if guest else _foreign_site(scope, headers))
        if refusal is not None:
            await self._refuse(refusal, scope, send)
        elif guest and scope.get("method") == "OPTIONS":  # the browser asks whether that page may ask
            await _respond(send, 204, {}, b"")
        elif self._brings_token(scope):
            await self._sign_in(scope, send)
        elif not self._security.asks_for_password or _is_signed_in(scope, headers, self._security):
            await self._app(scope, receive, send)
        else:
            await self._slow_down_guessing(scope, headers)
            await self._refuse(Refusal(status=401, error="Unauthorized", detail=_SIGN_IN), scope, send)

    def _brings_token(self, scope: Scope) -> bool:
        """Whether this is a browser that opens the address with the token in it."""
        return scope.get("method") in _READING and self._security.accepts_token(dict(_query(scope)).get("token", ""))

    async def _slow_down_guessing(self, scope: Scope, headers: Headers) -> None:
        """Wrong passwords are answered one after the other, however many connections they come from."""
        if "authorization" in headers or "token" in dict(_query(scope)):
            async with self._one_guess:
                await asyncio.sleep(_SECONDS_PER_GUESS)

    async def _sign_in(self, scope: Scope, send: Send) -> None:
        """Remember the browser, and send it to the same address without the token, which is not for the history."""
        path = "/" + quote(str(scope["path"])).lstrip("/")  # never "//host", which would lead to another site
        rest = urlencode([(key, value) for key, value in _query(scope) if key != "token"])
        name = _cookie_name(scope)
        cookie = f"{name}={self._security.cookie_value()}; Path=/; HttpOnly; SameSite=Strict; Max-Age=2592000"
        cookie += "; Secure" if scope["scheme"] == "https" else ""
        headers = {"Location": path + (f"?{rest}" if rest else ""), "Set-Cookie": cookie, "Cache-Control": "no-store"}
        await _respond(send, 303, headers, b"")

    async def _refuse(self, refusal: Refusal, scope: Scope, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": refusal.detail})
            return
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
        if refusal.status == 401 and self._security.credentials:
            headers["WWW-Authenticate"] = 'Basic realm="Emulsion", charset="UTF-8"'
        body = {"error": refusal.error, "detail": refusal.detail, "body": "", "errors": refusal.detail}
        await _respond(send, refusal.status, headers, json.dumps(body).encode())


def _foreign_host(headers: Headers, security: Security) -> Refusal | None:
    hosts = headers.getlist("host")
    match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if match is not None and security.answers_to(match["v6"] or match["name"]):
        return None
    detail = "This server is not known under that name. If it should be, start it with --allowed-host NAME."
    return Refusal(status=400, error="UnknownHost", detail=detail)


def _welcome_origin(scope: Scope, headers: Headers, security: Security) -> str | None:
    """The origin of a page elsewhere that may call the interface it calls."""
    origin = headers.get("origin")
    path = str(scope["path"]).removeprefix(scope.get("root_path", ""))
    return origin if origin and path.startswith(_INTERFACES) and security.welcomes(origin) else None


def _for_guest(origin: str) -> dict[str, str]:
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE",
        "Access-Control-Allow-Headers": "Authorization, Content-Type",
        "Vary": "Origin",
    }


def _foreign_site(scope: Scope, headers: Headers) -> Refusal | None:
    """Refused unless it comes from our own page, from no page at all, or by following a link to us."""
    origins = headers.getlist("origin")
    is_from_us = all(origin in (f"http://{headers['host']}", f"https://{headers['host']}") for origin in origins)
    is_link = (
        scope.get("method") in _READING
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )
    if is_from_us and (is_link or headers.get("sec-fetch-site", "none") in ("none", "same-origin")):
        return None
    return Refusal(status=403, error="ForeignSite", detail="The request comes from the page of another site.")


def _is_signed_in(scope: Scope, headers: Headers, security: Security) -> bool:
    cookies = cookie_parser(headers.get("cookie", ""))
    if security.accepts_cookie(cookies.get(_cookie_name(scope), "")):
        return True
    kind, _, value = headers.get("authorization", "").partition(" ")
    match kind.casefold():
        case "bearer":
            return security.accepts_token(value.strip())
        case "basic":
            return security.accepts_credentials(*_basic(value))
        case _:
            return False


def _basic(value: str) -> tuple[str, str]:
    """User and password of a Basic authorization; two empty ones, which nobody has, when it is malformed."""
    try:
        user, _, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password


def _cookie_name(scope: Scope) -> str:
    """One for each port: browsers send the cookies of a machine to all of its ports."""
    _, port = scope.get("server") or ("", 0)
    return f"emulsion-{port}"


def _query(scope: Scope) -> list[tuple[str, str]]:
    try:
        return parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=100)
    except ValueError:
        return []


def _with_headers(send: Send, added: dict[str, str]) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            headers = MutableHeaders(scope=message)
            for name, value in added.items():
                headers.setdefault(name, value)
        await send(message)

    return send_with_headers


async def _respond(send: Send, status: int, headers: dict[str, str], body: bytes) -> None:
    start: Message = {"type": "http.response.start", "status": status, "headers": []}
    MutableHeaders(scope=start).update({**headers, "Content-Length": str(len(body))})
    await send(start)
    await send({"type": "http.response.body", "body": body})
