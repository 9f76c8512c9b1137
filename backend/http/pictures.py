"""Pictures that jobs begin with: /api/v1/pictures. Everywhere else they are named by the SHA-256 of their files."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from backend.engine.engine import Engine
from backend.engine.picture_store import StoredPicture, StoreSize
from backend.errors import RequestError, UnknownPicture
from backend.http.files import HARMLESS, find_output
from backend.http.json_body import JsonObject
from backend.http.thumbnails import Thumbnails
from backend.images.safe_open import MAX_BYTES

_HEADERS = {**HARMLESS, "Cache-Control": "private, max-age=31536000, immutable"}  # another picture has another hash
_SIGNATURES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}
_OUTPUTS = "outputs/"
_THUMBNAILS = "thumb/"
Found = TypeVar("Found")


def pictures_router(engine: Engine) -> APIRouter:
    router = APIRouter(prefix="/api/v1/pictures")
    store = engine.pictures
    thumbnails = Thumbnails()

    async def add(data: bytes, name: str) -> dict[str, Any]:
        return picture_json(await asyncio.to_thread(store.add, data, name))

    @router.post("")
    async def upload(request: Request) -> dict[str, Any]:
        """A file as the body, or in the first file field of a form."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().casefold()
        if kind == "multipart/form-data":
            return await _with_form_file(request, add)
        return await add(await request.body(), "picture")

    @router.post("/from-output")
    async def from_output(request: Request, body: JsonObject) -> dict[str, Any]:
        """A picture that was made here, by the address that its job gives for it."""
        path = find_output(engine.settings.output_dir, _output_path(body.get("url"), request.url.netloc))
        data = await asyncio.to_thread(_read, path)
        return await add(data, path.name)

    @router.get("")
    def size() -> dict[str, Any]:
        return _size_json(store.size())

    @router.post("/remove-unused")
    def remove_unused() -> dict[str, Any]:
        return {"removed": _size_json(engine.remove_unused_pictures()), "left": _size_json(store.size())}

    @router.get("/{sha256}")
    def picture(sha256: str) -> FileResponse:
        path = _found(lambda: store.path(sha256))
        with path.open("rb") as file:
            start = file.read(4)
        kind = next((kind for mark, kind in _SIGNATURES.items() if start.startswith(mark)), "application/octet-stream")
        return FileResponse(path, media_type=kind, headers=_HEADERS)

    @router.get("/{sha256}/facts")
    def facts(sha256: str) -> dict[str, Any]:
        return picture_json(_found(lambda: store.describe(sha256)))

    @router.get("/{sha256}/thumb")
    def thumbnail(sha256: str) -> Response:
        webp = _found(lambda: thumbnails.made_of(sha256, lambda: store.data(sha256), sha256[:10]))
        return Response(webp, media_type="image/webp", headers=_HEADERS)

    return router


def picture_json(picture: StoredPicture) -> dict[str, Any]:
    url = f"api/v1/pictures/{picture.sha256}"
    return {
        "sha256": picture.sha256,
        "width": picture.width,
        "height": picture.height,
        "has_alpha": picture.has_alpha,
        "url": url,
        "thumbnail": f"{url}/thumb",
    }


def _size_json(size: StoreSize) -> dict[str, Any]:
    return {"pictures": size.pictures, "bytes": size.num_bytes}


async def _with_form_file(request: Request, use: Callable[[bytes, str], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    async with request.form(max_files=1, max_fields=20) as form:
        for value in form.values():
            if isinstance(value, UploadFile):
                return await use(await value.read(MAX_BYTES + 1), value.filename or "picture")
    raise RequestError("file", "is missing: the form holds no file. Send the picture as a file, or as the whole body")


def _output_path(url: Any, own_host: str) -> str:
    """What stands behind "outputs/" in an address of this server, absolute or not."""
    if not isinstance(url, str) or not url:
        raise RequestError("url", f"must be the address of a picture in {_OUTPUTS}")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise RequestError("url", f"is no address ({error})") from error
    if (parts.scheme and parts.scheme not in ("http", "https")) or parts.netloc not in ("", own_host):
        raise RequestError("url", "is an address elsewhere, and Emulsion fetches nothing. Upload the picture's file")
    _, found, path = unquote(parts.path).partition(_OUTPUTS)
    if not found:
        raise RequestError("url", f"must be the address of a picture in {_OUTPUTS}, not {url!r:.100}")
    return path.removeprefix(_THUMBNAILS)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _found(look: Callable[[], Found]) -> Found:
    """Raises HTTPException (404) for a picture that is not there."""
    try:
        return look()
    except UnknownPicture as error:
        raise HTTPException(404, str(error)) from error
