"""Pictures from the output folder, and nothing else from it: a page in there would run as ours."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response
from starlette.exceptions import HTTPException

from backend.engine.engine import Engine
from backend.errors import BadImage, RequestError
from backend.http.safe_join import safe_join
from backend.http.thumbnails import Thumbnails

_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
HARMLESS = {"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox"}  # should it be a page
_HEADERS = {**HARMLESS, "Cache-Control": "private, max-age=3600"}


def files_router(engine: Engine) -> APIRouter:
    router = APIRouter(prefix="/outputs")
    thumbnails = Thumbnails()
    folder = engine.settings.output_dir

    @router.get("/thumb/{path:path}")
    def thumbnail(path: str) -> Response:
        try:
            webp = thumbnails.get(find_output(folder, path))
        except (BadImage, OSError) as error:
            raise HTTPException(404, f"The picture cannot be opened: {error}") from error
        return Response(webp, media_type="image/webp", headers=_HEADERS)

    @router.get("/{path:path}")
    def picture(path: str) -> FileResponse:
        file = find_output(folder, path)
        return FileResponse(file, media_type=_TYPES[file.suffix.lower()], headers=_HEADERS)

    return router


def find_output(folder: Path, asked: str) -> Path:
    """The picture `asked` in the output folder. Raises HTTPException (404)."""
    try:
        path = safe_join(folder, asked)
    except RequestError as error:
        raise HTTPException(404, f"There is no such picture: its {error}.") from error
    if path.suffix.lower() not in _TYPES or not path.is_file():
        raise HTTPException(404, "There is no such picture.")
    return path
